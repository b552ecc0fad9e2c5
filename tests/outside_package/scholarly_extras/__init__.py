"""Plug-ins of an outside package."""
