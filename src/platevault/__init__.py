"""Observatory image capture and archiving, from readout to ``butler.get``."""
