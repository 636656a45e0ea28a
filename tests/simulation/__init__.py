"""The whole program on a seed: virtual time, a seeded schedule, and a network in memory."""
