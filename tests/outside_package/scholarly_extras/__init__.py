"""PluginSpec-ins of an outside package."""
