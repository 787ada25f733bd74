"""Raw image files: cards, checksums, Rice compression and the writer."""
