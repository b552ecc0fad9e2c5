"""Domains: how a row becomes a prompt and a target, and how an answer is counted. They know nothing of trainers."""
