"""Faster replacements of parts of TRL and transformers; tests show equal results."""
