"""A run: its directory, its resume and the pipeline that fills it.

It owns every file of a run directory and the order in which things happen to a sample. It never knows
HTTP (that is `endpoints`) and never computes a rate (that is `analysis`).
"""
