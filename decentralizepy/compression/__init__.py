"""Vectors to few bytes and back: one file a part, and the chain that puts parts together."""
