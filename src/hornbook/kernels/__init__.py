"""Floor 1: the native kernels. C++ in native/, one shared library, which library.py loads; no torch."""
