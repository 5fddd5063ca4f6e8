"""Explanations of normalizers: the measured cube, formula, table, pictures and trap, and the path of choice."""

from .explaining import Explanation as Explanation
from .explaining import explain as explain
