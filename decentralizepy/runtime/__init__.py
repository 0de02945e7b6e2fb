"""Performs the effects of node programs: workers, machines, clock, rows."""
