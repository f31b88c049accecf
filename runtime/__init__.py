"""Artifact to pixels: upscales images and video; needs no torch."""
