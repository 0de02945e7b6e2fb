"""The networks that nodes train, by name, and their sizes."""
