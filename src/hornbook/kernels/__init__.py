"""Floor 1: the native kernels. C++ in native/, one shared library, loaded by library.py; no torch.

    native/hornbook.h   the C interface            library.py   loads it, or says why not
    native/kernels.h    what an instruction set brings          cores.py     how many threads are worth having
"""
