"""Benchmarks that anyone can run on a laptop: no GPU, no account, no internet."""
