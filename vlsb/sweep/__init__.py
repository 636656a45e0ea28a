"""Many runs from one plan: models x protocols x epochs, each cell a run directory, judges over all of them.

It decides which command runs where and when: on this machine's GPUs, on Ray, on Slurm. It never asks a model
itself, and knows of a cell only what its run directory says.
"""
