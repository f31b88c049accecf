"""Cameras, network streams and GStreamer: the newest frame wins."""
