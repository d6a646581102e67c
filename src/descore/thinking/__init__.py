"""Thoughts: sampled, graded, and what a reward is read from."""
