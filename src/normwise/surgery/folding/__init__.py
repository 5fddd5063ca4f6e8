"""The parts of `fold`: observe which layer feeds which, describe the layers, plan the folds, verify the result."""
