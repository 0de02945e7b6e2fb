"""Which node runs on which machine."""
