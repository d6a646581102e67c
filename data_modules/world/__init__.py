"""The rendered world: scenes, their prompts, their videos, the teacher's thoughts, and a small backbone for them."""
