"""Choosing a classifier by synthetic images alone."""
