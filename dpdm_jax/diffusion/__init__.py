"""Denoising diffusion as pure functions: nothing here knows networks or privacy."""
