"""Random numbers that are a function of where they are used, so that nothing else can change them.

    uniform(seed, sample, token)   in [0, 1): for token number `token` of answer number `sample` of a request with `seed`

Nothing is drawn from a stream and nothing has a state: a reply is the same whatever runs beside it, however often its
work was put aside and begun anew, and wherever its answers forked.

Source: SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 16), its finaliser
applied once a coordinate.
"""

from __future__ import annotations

import os

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / the golden ratio, odd


def _mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniform(seed: int, sample: int, token: int) -> float:
    """In [0, 1), with all 53 bits of a double. Any integers will do; seeds count modulo 2^64."""
    z = _mixed((seed + GOLDEN) & MASK)
    z = _mixed((z + (sample + 1) * GOLDEN) & MASK)
    z = _mixed((z + (token + 1) * GOLDEN) & MASK)
    return (z >> 11) * 2.0**-53


def fresh_seed() -> int:
    """For a request that names none."""
    return int.from_bytes(os.urandom(8), "little")
