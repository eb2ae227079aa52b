"""Images as arrays: frequencies and augmentation."""
