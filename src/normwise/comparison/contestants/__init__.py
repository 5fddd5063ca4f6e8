"""The contestants: normalizers and strategies by name, and the models that get them."""
