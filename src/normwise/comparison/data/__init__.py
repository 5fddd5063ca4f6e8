"""The data of a comparison: sources, splits, and the mini-batches of the training loop."""
