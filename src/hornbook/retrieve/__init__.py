"""Documents in, passages found: parsers, chunks, the index and its searches."""
