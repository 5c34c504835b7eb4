"""The item-token ranker: a tuned LLM with one token for each item."""
