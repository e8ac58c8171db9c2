"""Numerics of scTAG on arrays and tensors; nothing in here knows AnnData or scanpy."""
