"""What others call: videos and prompts in, score records out."""
