"""The version of the program, which runs and reports record."""

__version__ = "0.1.0"
