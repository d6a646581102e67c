"""The tool by which a model asks for frames that it has not seen: its settings, and the text of its calls."""
