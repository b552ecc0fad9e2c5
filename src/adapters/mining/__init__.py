"""A corpus read with small proxies: the sample that a large model labels, programs of questions, and their engine."""
