"""How good samples are: classifiers trained on them and tested on real data."""
