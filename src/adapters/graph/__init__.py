"""Facts of documents as a graph: nodes that are merged by name or id, edges that say where they stand."""
