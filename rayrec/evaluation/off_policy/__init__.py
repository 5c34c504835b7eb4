"""Off-policy evaluation: what another policy would have earned, out of logs with propensities, with intervals.

Public, for notebooks: the jobs call a part of it (`rayrec.evaluation` the slate estimators and interleaving), the rest
is called by whoever has logs, and held by `tests/offpolicy` and `benchmarks/offpolicy.py`.
"""
