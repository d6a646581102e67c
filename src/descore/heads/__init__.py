"""Heads of a reward model: their form, and what maps hidden states to rewards."""
