"""From a finished run to the Hub: a bundle on disk, a gate that proves it, a model card, one commit."""
