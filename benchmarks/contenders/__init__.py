"""The programs that are compared: each does the whole job, one process, told the same things.

The job is the one of `vlsb run`: ask the target about every sample, then the judge about every response,
at most so many requests of each at a time.
"""
