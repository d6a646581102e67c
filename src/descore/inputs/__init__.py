"""Prompt, frames and thoughts to one packed batch."""
