"""What each stage minimises, in training and when a kept step is replayed."""
