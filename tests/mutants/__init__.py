"""A score for the tests: small faults are planted in what decides, one at a time, and a test has to fail."""
