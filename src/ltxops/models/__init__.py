"""Weights: the manifest and its lock, the hub they come from, and the store that proves and places them."""
