"""log p(x): estimators, the annealed chains and diagnostics they share, inference gaps."""
