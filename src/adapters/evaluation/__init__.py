"""Completions become figures: metrics, spans, comparisons of two models, files scored without a model."""
