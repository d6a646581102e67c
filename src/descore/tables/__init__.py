"""Pair tables: reads our own and published layouts, and writes our own."""
