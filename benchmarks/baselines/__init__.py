"""What one would use instead, timed in turns with the backends."""
