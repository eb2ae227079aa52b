"""What a run may publish: a bundle of weights, config and privacy statement."""
