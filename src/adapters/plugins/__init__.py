"""Names become tasks, rewards and noise; rewards are called with a time limit, tested and logged."""
