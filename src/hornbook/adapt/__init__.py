"""Floor 2: a model is changed without being rewritten. Adapters are attached to it, switched, merged, saved and loaded."""
