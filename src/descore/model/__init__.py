"""The reward model: packed forward, thought cache, what trains, the exported folder."""
