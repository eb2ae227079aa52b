"""One file per experiment; ``base`` explains every field."""
