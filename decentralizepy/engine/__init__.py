"""Performs what node programs ask for: workers, seats, clocks, records, checkpoints."""
