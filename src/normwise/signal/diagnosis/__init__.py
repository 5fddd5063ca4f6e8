"""Findings about a model: measurements are gathered once, and each rule judges them."""
