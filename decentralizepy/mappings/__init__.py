"""Which agent runs on which machine."""
