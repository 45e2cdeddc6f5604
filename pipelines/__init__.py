"""Beam. Transforms wire; the functions of features/ work."""
