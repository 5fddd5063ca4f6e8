"""The ways that can answer a request (by_torch.py, by_kernels.py, ..., plain.py); choosing.py chooses one of them."""
