"""Floor 1: one Transformer for every family. What it does follows from ModelConfig's fields, never from a name."""
