"""What a run's records amount to: the counts of outcomes, rates, intervals and bounds.

Owns every number that is shown, and those that others published. Pure functions over records: asks no
endpoint, prints nothing and never rounds.
"""
