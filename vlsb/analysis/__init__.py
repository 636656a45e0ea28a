"""What a run's records amount to: the counts of outcomes, rates, intervals and bounds.

Owns every number that is shown. Pure functions over records: reads no file, asks no endpoint, prints
nothing and never rounds.
"""
