"""The Butler: ingest of raw images, and reading them back; `ingest` and `raw_image` import fast."""
