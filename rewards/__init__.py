"""Reward plug-ins: one file a reward. They know nothing of trainers."""
