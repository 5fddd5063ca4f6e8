"""From rows to a verdict: cells, spread, leaders, costs, a recommendation and the next step."""
