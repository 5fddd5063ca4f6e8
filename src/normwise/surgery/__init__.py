"""Tools that change models people already have."""
