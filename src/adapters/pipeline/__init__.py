"""A recipe becomes a plan, a check and a run."""
