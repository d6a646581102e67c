"""How the tiny backbone is taught to see and to write: `make tiny-backbone`.

It is taught as a real one is, broadly: `perception` teaches the vision tower to see, `language` the language model to
compare in text alone, `together` the whole model to caption, to answer, to score and to think. `recipe` has all numbers.
"""
