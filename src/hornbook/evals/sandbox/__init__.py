"""Programs that a model wrote, run where they can harm nothing: ``sandbox.Sandbox`` is the door, docs/sandbox.md the map.

    sandbox.py     the host's side: find what this machine can isolate, start, read, end
    layers.py      the walls there are, best first: bubblewrap, namespaces of our own, an ordinary process
    probe.py       a wall is believed when a program that tries it was held
    warden.py      the process inside that starts the program, counts what it uses, kills all of it
    limits.py      what a program may use
    namespaces.py, landlock.py, seccomp.py, kernel.py     what the walls are made of: Linux, through ctypes

The files of the inside are imported by a bare Python before every program: the standard library only, and little of it.
"""
