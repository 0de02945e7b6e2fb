"""Node programs, models and data that the benchmarks run, as users write them beside an INI."""
