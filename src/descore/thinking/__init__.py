"""Thoughts: how they are sampled, how they are graded, and how rewards are read from them."""
