"""`make fuzz`: calls with anything in them, right and wrong, on kernels that watch over every access."""
