"""Tools that change models people already have."""

from .recalibrate import recalibrate as recalibrate
