"""Nearest neighbors: the search, equal numbers from each batch, one connected graph."""
