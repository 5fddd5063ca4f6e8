"""What every page and picture shares: the scaffold, the palette for light and dark, round numbers at axes."""

from .document import document as document
