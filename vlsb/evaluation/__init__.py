"""One run: its settings, the plan they make, and what happens to each sample, in which order.

It opens every room that a sample passes and is opened by none of them. It never knows HTTP (that is
`endpoints`), never names a file of the run directory (`store`) and never computes a rate (`analysis`).
"""
