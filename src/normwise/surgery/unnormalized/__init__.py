"""The parts of `normalizer_free`: remove normalizers, insert other layers, and set their gains."""
