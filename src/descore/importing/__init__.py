"""Importing published models: their files become an exported folder, tensor by tensor, or the import fails."""
