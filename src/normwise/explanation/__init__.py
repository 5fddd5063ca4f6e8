"""What a normalizer does: its cube, measured, with formula, table, pictures, trap, and which one to use."""

from .explaining import Explanation as Explanation
from .explaining import explain as explain
