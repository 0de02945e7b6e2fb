"""Decentralized learning: graphs, gossip, sharing and the engine that runs them."""

__version__ = "0.1.0"
