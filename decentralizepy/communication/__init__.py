"""Message format and transports."""
