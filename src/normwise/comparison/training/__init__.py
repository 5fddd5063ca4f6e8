"""One training run with our own loop: its settings, its steps and its measurements."""
