"""Figures, each a ratio of two things measured in turn in the same run. `python -m benchmarks [NAME ...]`."""
