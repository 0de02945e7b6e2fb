"""Figures for papers: one file each, with its command. `results.plots` has those of any run."""
