"""Evaluation: metrics, spans, comparison of two models, scores of files of completions."""
