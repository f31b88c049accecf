"""Baselines: alternative methods, timed in turns with the backends."""
