"""New cells on a trained model: placement, novelty, expected counts; arrays and tensors only."""
