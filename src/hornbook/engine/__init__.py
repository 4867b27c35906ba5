"""From a prompt to tokens: sampling, stop strings, and the plain generator that any faster engine is held to."""
