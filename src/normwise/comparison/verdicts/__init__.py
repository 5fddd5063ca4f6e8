"""From rows to a verdict: cells, spread, who leads, what it costs, what to choose and to do next."""
