"""Off-policy evaluation: what another policy would have earned, out of logs with propensities, with intervals."""
