"""Training: one loop, checkpoints, metrics."""
