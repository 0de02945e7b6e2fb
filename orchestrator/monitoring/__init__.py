"""What a run's computers took, beside what its machines tell of themselves."""
