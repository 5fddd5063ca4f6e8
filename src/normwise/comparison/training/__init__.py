"""One training run with our own loop: its choices, its steps, and what is measured of it."""
