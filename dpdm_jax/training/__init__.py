"""Training: state, step, optimizer, average, checkpoints and the loop."""
