"""Carries messages between workers: by reference, in shared memory, over sockets."""
