"""The operations that layers and functions call: requests, and the ways that answer them."""
