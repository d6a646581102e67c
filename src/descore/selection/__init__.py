"""What to choose of several videos of one prompt: the best of them, and pairs to train a generator on."""
