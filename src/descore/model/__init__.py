"""The reward model: packed forward, thought cache, sampling, trainable parts, exported folder."""
