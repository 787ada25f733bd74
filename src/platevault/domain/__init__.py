"""Values and rules of image capture: no I/O, no clock, no logging."""
