"""Judges for vlsb: the YAML files in this folder."""
