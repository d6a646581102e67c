"""How the tiny backbone is taught to see and to write: `make tiny-backbone`.

It is taught as a real one is, broadly: `perception` teaches the vision tower to see, `language` the language model to
compare in text alone, and then the whole model to caption, answer, score and think. `recipe` has all numbers.
"""
