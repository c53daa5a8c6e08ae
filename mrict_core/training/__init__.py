"""Training: one loop for all methods, checkpoints, validation and schedules."""
