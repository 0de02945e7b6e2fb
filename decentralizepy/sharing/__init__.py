"""What a node says and how it merges what it hears: one file a method."""
