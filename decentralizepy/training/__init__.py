"""Local training: one node's SGD steps, and many small nodes' at once."""
