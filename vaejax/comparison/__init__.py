"""Comparisons of evaluated runs: paired differences, their errors, tables, figures and a page."""
