"""Runs on several machines: Ray's tasks upscale the segments of videos, and images in batches."""
