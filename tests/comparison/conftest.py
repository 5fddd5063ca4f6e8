"""Puts this folder, with the problems that its tests share, on the path of the modules in its rooms."""
