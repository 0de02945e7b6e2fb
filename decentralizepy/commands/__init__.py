"""The commands of `decentralizepy`, but for their entry in `cli`."""
