"""A model measured on a benchmark: request, schedule, run, folder, summary, comparison."""
