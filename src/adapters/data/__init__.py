"""Files become examples: rows, noise, duplicates, lengths, preference pairs."""
