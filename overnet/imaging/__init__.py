"""Images as arrays and as files. Needs no torch."""
