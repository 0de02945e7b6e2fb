"""One self-contained HTML page for a run or a comparison: `python -m results report RUN...`."""
