"""Rows of the task `mine`: words, spans and the inputs that ask an encoder about a text, without torch."""
