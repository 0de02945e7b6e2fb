"""Data sets: real on-disk formats, prepared once, memory-mapped, dealt to the nodes. No torch."""
