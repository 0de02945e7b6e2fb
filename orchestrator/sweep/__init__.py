"""Many experiments from one JSON, in one reservation."""
