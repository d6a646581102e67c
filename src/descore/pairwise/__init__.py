"""Pairwise judgement: two videos in one context, the choice between them, and what follows from many choices."""
