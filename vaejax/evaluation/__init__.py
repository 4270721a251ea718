"""Per-example estimates over a data set: the map over examples, and what is made of its results."""
