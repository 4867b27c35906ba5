"""Model files: fetched and kept (store), read (gguf, safetensors) and turned into a model (load, families, rules)."""
