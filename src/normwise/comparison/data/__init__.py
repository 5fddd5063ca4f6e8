"""The data of a comparison: where they come from, how they are split, what the loop reads of them."""
