"""Corpora in parts, on one machine or many: Ray Data hands the parts out, files anywhere fsspec reaches."""
