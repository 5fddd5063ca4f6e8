"""Each way that a request can go (by_torch.py, by_kernels.py, ..., plain.py); choosing.py chooses one of them."""
