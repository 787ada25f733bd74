"""One package per deployable service; each knows ports only."""
