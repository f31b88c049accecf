"""Media containers and the streams beside the video: opening, clocks, sound, pipes, and reading back."""
