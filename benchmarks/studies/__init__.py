"""Measurements behind single figures of the README."""
