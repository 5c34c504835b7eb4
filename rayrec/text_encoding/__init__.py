"""Sentence vectors of texts, for the stages that compare texts by meaning."""
