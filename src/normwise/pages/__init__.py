"""The common parts of all pages and pictures: the frame, the palette for light and dark, round numbers at axes."""

from .document import document as document
