"""Pair tables: every layout read, ours written."""
