"""What is trained and sampled from: a network, its diffusion, and their parameters."""
