"""Whose page is asking? Host against DNS rebinding, Origin and Sec-Fetch-Site against other people's pages.

A page that a person has open somewhere can make their browser send requests to this machine. What tells such a
request from one that the person meant:

* DNS rebinding: the page's own name was made to point at 127.0.0.1, so the browser thinks it talks to the page's
  server. ``Host`` then carries that name, which is none of ours. (An address cannot be rebound, only a name.)
* a cross-origin request: ``Origin`` carries the page's origin; a browser sends it with every request that is not
  GET or HEAD, so "simple" requests (a form, text/plain) carry it too.
* what carries no Origin (an image, a script, a frame, a link): ``Sec-Fetch-Site`` says whether another site asked.
  Only a link that a person followed (a top-level navigation) may come from another site.

Programs send neither Origin nor Sec-Fetch-Site and are judged by Host and key alone. Sources: Fetch Standard,
"`Origin` header"; W3C Fetch Metadata Request Headers; RFC 9110 section 7.2.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from hornbook.serve.guard.policy import WILDCARDS, Policy
from hornbook.serve.guard.refusals import Refusal, printable

_AUTHORITY = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")


def host_name(authority: str) -> str | None:
    """``LocalHost.:11500`` -> ``localhost``, ``[::1]:80`` -> ``::1``; None when it is no name or address with a port."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    return match["name"].strip("[]").removesuffix(".").lower() or None


def known_hosts(policy: Policy) -> frozenset[str]:
    """The names that lead to this server: those configured, the bound one and, on every interface, this machine's."""
    names = {"localhost", *policy.hosts}
    if policy.bind in WILDCARDS:
        own = socket.gethostname().lower()
        names |= {own, f"{own.split('.')[0]}.local"}
    else:
        names.add(policy.bind.strip("[]").removesuffix(".").lower())
    return frozenset(names)


def check_host(values: list[str], names: frozenset[str], bind: str) -> str:
    """The authority of a request's only Host header. Raises Refusal: 400 for none, several or nonsense, 403 for a foreign name."""
    name = host_name(values[0]) if len(values) == 1 else None
    if name is None:
        raise Refusal(400, "bad_host", f"the request has {len(values)} Host headers that can be read", "Send one.")
    if name not in names and not _address_of_ours(name, bind):
        raise Refusal(
            403,
            "foreign_host",
            f"this server does not answer for the name {printable(name, 80)!r}",
            "Use its address or localhost, or start it with --allow-host NAME.",
        )
    return values[0].lower()


def _address_of_ours(name: str, bind: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or bind in WILDCARDS


def check_origin_of(
    method: str, authority: str, origin: str | None, referer: str | None, fetch: tuple[str, str, str], policy: Policy
) -> str | None:
    """The foreign origin that is let in because it was named, or None for a request of our own page or of a program.

    ``authority``: the checked Host. ``fetch``: Sec-Fetch-Site, -Mode and -Dest, "" where not given.
    Raises Refusal (403) for a page of another origin.
    """
    site, mode, destination = fetch
    if origin is not None:
        if _is_own(origin, authority):
            return None
        if origin in policy.origins:
            return origin
        raise _foreign(f"a page of {printable(origin, 80)!r}")
    if site in ("cross-site", "same-site"):
        if method in ("GET", "HEAD") and mode == "navigate" and destination == "document":
            return None
        raise _foreign("a page of another site")
    if not site and referer and method not in ("GET", "HEAD") and not _is_own(_origin_of(referer), authority):
        raise _foreign(f"a page of {printable(_origin_of(referer), 80)!r}")
    return None


def _is_own(origin: str, authority: str) -> bool:
    """The page came from the very name and port that it calls; https is whoever ends TLS in front of this server."""
    return origin.lower() in (f"http://{authority}", f"https://{authority}")


def _origin_of(referer: str) -> str:
    try:
        parts = urlsplit(referer)
    except ValueError:
        return "null"
    return f"{parts.scheme}://{parts.netloc}"


def _foreign(whom: str) -> Refusal:
    return Refusal(
        403,
        "foreign_origin",
        f"{whom} may not call this server",
        "If it should, start the server with --cors-origin ORIGIN.",
    )
