"""Published models: a folder per model with weights, facts, scores and a card; their registry; imports from others."""
