"""Where an experiment can run: one short file per kind of place."""
