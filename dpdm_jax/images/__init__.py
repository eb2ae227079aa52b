"""Images as arrays: bytes and floats, frequencies, augmentation."""
