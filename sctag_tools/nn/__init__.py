"""The networks: TAG layers, decoders and losses; tensors only."""
