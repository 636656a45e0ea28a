"""The job as other evaluators do it, each in an environment of its own: run by `benchmarks.peers` alone."""
