"""Tasks: how a row becomes a prompt and a target, and how an answer is scored."""
