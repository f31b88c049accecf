"""Measures speed, memory and quality."""
