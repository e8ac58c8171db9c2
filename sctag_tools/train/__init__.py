"""Options, data, training loop and the run as a whole; arrays and tensors only."""
