"""Findings about a model: evidence is gathered once, and each rule looks at it."""
