"""What Platevault needs from outside, as protocols without behaviour."""
