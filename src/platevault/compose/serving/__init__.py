"""One service as a process of its own: what it opens, how it shows that it lives, how it ends."""
