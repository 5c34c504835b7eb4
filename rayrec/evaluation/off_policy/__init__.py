"""Off-policy evaluation: the expected reward of another policy, from logs with propensities, with intervals.

Public, for notebooks. The jobs use the slate estimators and interleaving; benchmarks/offpolicy.py checks all of it.
"""
