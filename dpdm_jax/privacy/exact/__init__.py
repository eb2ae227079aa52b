"""Integers in place of floating-point sums and noise: see ``docs/arithmetic.md``."""
