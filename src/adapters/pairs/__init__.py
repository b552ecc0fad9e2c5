"""Preference pairs: from files, and from the rollouts of GRPO runs."""
