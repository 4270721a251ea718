"""Training: one step, its schedules, the loop around it."""
