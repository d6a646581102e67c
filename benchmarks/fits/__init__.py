"""What fits on which device: predicted, and checked."""
