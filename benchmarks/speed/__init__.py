"""Speed and memory, each against the plain way."""
