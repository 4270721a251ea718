"""What lies on disk: files that a kill cannot halve, locks, checkpoints, metrics."""
