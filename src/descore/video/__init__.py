"""Video file to frames: checked, decoded in a child process, resized, cached; and frames to a file."""
