"""What a run is to be imagined under: simulated links and paces, and planned faults."""
