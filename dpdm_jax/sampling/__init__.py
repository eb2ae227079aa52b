"""Images from trained models: generation, labels, files and pictures."""
