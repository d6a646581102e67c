"""Inputs of the model: prompts, frames and thoughts become one packed batch."""
