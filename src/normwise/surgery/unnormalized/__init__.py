"""What `normalizer_free` consists of: what is taken out, what comes in its place, and how large that is made."""
