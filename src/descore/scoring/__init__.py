"""Scoring, the part that other programs call: videos and prompts in, score records out."""
