"""Rewards in the shapes that training loops of video generators call, a file per shape; see docs/integrations.md."""
