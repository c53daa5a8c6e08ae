"""Published models: one folder each with weights, facts, scores and a card; and their registry."""
