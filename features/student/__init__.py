"""Distillation: a small TensorFlow model learns what the annotators said, and covers the whole corpus."""
