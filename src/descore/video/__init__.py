"""Video files to frames: checked, decoded in a child process, resized and cached; and frames to a video file."""
