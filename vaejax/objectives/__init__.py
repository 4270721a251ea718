"""Bounds on log p(x), importance weights, and estimators of a bound's gradient."""
