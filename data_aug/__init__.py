"""Data augmentation: noise that keeps its labels, and synthetic statements."""
