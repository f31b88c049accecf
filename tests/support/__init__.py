"""Helpers of several test modules: commands, clips, servers and scenarios. None of them is a test."""
