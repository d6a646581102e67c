"""The training data: tables of pairs, read and decoded in workers."""
