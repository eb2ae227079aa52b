"""How good samples are: classifiers trained on them, and comparisons with real data."""
