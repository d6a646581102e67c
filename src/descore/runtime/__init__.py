"""How a run spreads over devices, saves, resumes and ends."""
