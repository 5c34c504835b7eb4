"""Simulations with a known truth: for planning an experiment, and for checking estimators and decisions."""
