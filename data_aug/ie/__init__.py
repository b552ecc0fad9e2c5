"""Entity and relation corpora: readers of their formats, and training mixes.

A row is `{"id", "task": NER or RE, "source", "schema": [label, …], "text", "gold"}`; gold is {type: [text, …]} or
{relation: [{"head", "tail"}, …]} with every label of the schema, `id` the SHA-256 of the text. Rows with character
offsets also have `spans`: [[start, end, type], …].
"""

from adapters.data_aug.ie.corpora import READERS
from adapters.data_aug.ie.mix import CARD_SOURCES, Mix, Mixed, mix
from adapters.data_aug.ie.records import from_iepile, is_iepile, row_id
from adapters.data_aug.ie.sentences import Corpus, Options

__all__ = ["CARD_SOURCES", "READERS", "Corpus", "Mix", "Mixed", "Options", "from_iepile", "is_iepile", "mix", "row_id"]
