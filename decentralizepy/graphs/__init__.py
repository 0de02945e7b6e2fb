"""Who talks to whom, when, and with what weight: graphs, schedules of graphs, mixing weights."""
