"""The public stage of latent diffusion: an autoencoder, trained on public images.

Nothing here protects anybody. Steps and checkpoints are apart from those of private
runs, and data that is not stated to be public is refused.
"""
