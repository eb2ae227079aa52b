"""Accuracy against the number of synthetic images that a classifier is trained on."""
