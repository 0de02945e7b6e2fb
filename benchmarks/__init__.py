"""Measures speed and memory against their bounds; every figure in the documents comes from here."""
