"""The model `demo`: an adapter on the tiny backbone, and six videos, that ship with the package."""
