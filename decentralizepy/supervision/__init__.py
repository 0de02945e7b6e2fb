"""One machine of a run: its workers, what all machines agree on, its status."""
