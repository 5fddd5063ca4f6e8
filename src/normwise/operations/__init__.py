"""What the layers call: the general path, and its shortcuts for plain standardization."""
