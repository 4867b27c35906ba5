"""Token buckets: so many requests at once, so many a second for ever; one bucket a caller, forgotten when full.

A bucket is two numbers, how full it was and when; it is refilled when it is looked at, so nothing runs in the
background. Source: the token bucket as in RFC 2697's terms (committed rate, burst size).
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

CALLERS = 4096  # buckets kept; beyond it the one that was used longest ago is forgotten


class Buckets:
    """One bucket of ``burst`` tokens for each caller, refilled with ``rate`` tokens a second."""

    def __init__(self, rate: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.burst = burst
        self._now = now
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> float:
        """Take a token and return 0, or take none and return the seconds until there is one."""
        now = self._now()
        level, since = self._levels.pop(caller, (float(self.burst), now))
        level = min(self.burst, level + (now - since) * self.rate)
        wait = 0.0 if level >= 1 else (1 - level) / self.rate
        self._levels[caller] = (level - 1 if wait == 0 else level, now)
        if len(self._levels) > CALLERS:
            self._levels.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._levels)


def retry_after(seconds: float) -> bytes:
    """The header's whole seconds, never 0: a client that obeys is let in."""
    return str(max(1, math.ceil(seconds))).encode()


def caller_of(client: tuple[str, int] | None) -> str:
    """Who an address stands for: an IPv4 address, or the /64 that one IPv6 customer can spend at will."""
    host = client[0] if client else ""
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return host or "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
