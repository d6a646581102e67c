"""The rendered world: scenes, their wording, their drawing, the teacher, and a backbone that fits them."""
