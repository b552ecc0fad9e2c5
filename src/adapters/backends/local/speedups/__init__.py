"""Faster replacements of parts of TRL and transformers, each proved equal by a test."""
