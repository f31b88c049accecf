"""Artifact to pixels: upscales pictures and video; needs no torch."""
