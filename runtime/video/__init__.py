"""Video files and pipes: frames in and out."""
