"""Bias, variance and cost of gradient estimators, measured by repeated draws."""
