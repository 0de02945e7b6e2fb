"""Shapes of published results at a small size, run by hand; figures go to docs/figures."""
