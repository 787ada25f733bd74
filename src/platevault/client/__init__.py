"""What scientists and tools import: ask where an image is."""
