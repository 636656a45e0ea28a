"""The run directory: its manifest, its append-only files, what they say together, and their repair.

It owns every file of a run and the order in which they are written. It never sends a request and never
decides what happens to a sample.
"""
