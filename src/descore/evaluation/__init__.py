"""Evaluation of a model on a benchmark: request, schedule, run, output folder, summary, comparison."""
