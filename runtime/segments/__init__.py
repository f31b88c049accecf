"""Long videos in segments: each is a closed file, so that a run that was cut off goes on at the first missing one."""
