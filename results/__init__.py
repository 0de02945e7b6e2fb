"""Run folders in, tables and figures out: ``python -m results RUN_FOLDER``."""
