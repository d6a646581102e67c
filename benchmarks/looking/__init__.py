"""Whether a model that asks for frames judges better than one that is shown them: docs/evidence.md."""
