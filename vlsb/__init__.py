"""Evaluate vision-language models on VLSBench, concurrently and resumably."""

__version__ = "0.1.0"
