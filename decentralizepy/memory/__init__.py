"""The memory that the workers of a machine share: counters, and the rows of nodes."""
