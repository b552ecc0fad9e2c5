"""Evaluation: metrics, spans, comparison of two models, files of completions."""
