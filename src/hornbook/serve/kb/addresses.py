"""Which addresses a server may be sent to by somebody's URL: the public internet's, and none that only look like one.

    check_url("https://example.org/a.pdf")      scheme, host, port and spelling: before anything is looked up
    check_address("93.184.216.34")              what a name resolved to: before anything is connected to

A server that fetches for others must not become their arm into its own network (server-side request forgery, CWE-918).
A name is looked up once, every address it has is checked, and the connection goes to one of those addresses and to
nothing that a second look-up could give (DNS rebinding); the same again at each redirect: fetch.py.

A host that ends in a number is IPv4 to a browser and to inet_aton, in decimal, octal and hexadecimal, of one to four
parts (WHATWG URL, 3.5): only the plain spelling of four decimal parts is taken for an address, any other is refused.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

import idna

from hornbook.errors import UsageError

PORTS = frozenset([80, 443, 8080, 8443])
LONGEST_URL = 2_048
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")

# Networks that some versions of ipaddress call global, or of which they know nothing, and that still lead inside.
_INSIDE = [
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # a cloud's own services, on an address that looks public
        "192.0.0.0/24",  # protocols, and a cloud's metadata
        "192.88.99.0/24",  # 6to4 relays
        "100.64.0.0/10",  # carriers' own
        "::/96",  # IPv4-compatible
        "64:ff9b:1::/48",  # NAT64 of a network's own
        "2001::/23",  # Teredo and other assignments of protocols
        "fec0::/10",  # site-local
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
    )
]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")


class RefusedAddress(UsageError):
    """A URL that this server does not fetch."""


class Target(NamedTuple):
    """A URL that may be looked up. ``host`` is ASCII, without brackets; ``path`` begins with "/" and has the query."""

    scheme: str
    host: str
    port: int
    path: str
    url: str


def check_url(url: str) -> Target:
    """Raises RefusedAddress where the URL names nothing that may be fetched; looks nothing up."""
    if len(url) > LONGEST_URL:
        raise _refused(f"the URL has {len(url):,} characters, {LONGEST_URL:,} are the most")
    if re.search(r"[\x00-\x20\x7f\\\ud800-\udfff]", url):
        raise _refused("the URL has a space, a backslash or a control character in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(f"the URL cannot be read ({error})") from error
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        raise _refused(f"the URL's scheme is {scheme or 'missing'}, only http and https are fetched")
    if "@" in parts.netloc:
        raise _refused("the URL has a user name in it")
    if not parts.hostname:
        raise _refused("the URL names no host")
    port = port if port is not None else (443 if scheme == "https" else 80)
    if port not in PORTS:
        raise _refused(f"port {port} is not fetched from, only {', '.join(map(str, sorted(PORTS)))}")
    host = _host(parts.hostname, bracketed="[" in parts.netloc)
    path = _ascii(parts.path or "/") + (f"?{_ascii(parts.query)}" if parts.query else "")
    spelled = f"[{host}]" if ":" in host else host
    usual = port == (443 if scheme == "https" else 80)
    return Target(scheme, host, port, path, f"{scheme}://{spelled}{'' if usual else f':{port}'}{path}")


def check_address(address: str) -> str:
    """The address. Raises RefusedAddress where it is not one of the public internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError as error:  # a zone ("fe80::1%eth0") too
        raise _refused(f"{address} is no address") from error
    reason = _inside(ip)
    if reason:
        raise _refused(f"{address} is {reason}, not an address of the public internet")
    return address


def _inside(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Why an address is not public, or ""."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id:
            return "bound to an interface"
        carried = _carried(ip)
        if carried is not None:
            return _inside(carried)
    if ip.is_unspecified:
        return "unspecified"
    if ip.is_loopback:
        return "loopback"
    if ip.is_link_local:
        return "link-local"
    if ip.is_multicast:
        return "multicast"
    if any(ip in network for network in _INSIDE if network.version == ip.version):
        return "reserved"
    if ip.is_private:
        return "private"
    if ip.is_reserved or not ip.is_global:
        return "reserved"
    return ""


def _carried(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: v4-mapped, NAT64 (RFC 6052), 6to4 (RFC 3056)."""
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip in _SIX_TO_FOUR:
        return ipaddress.IPv4Address(int(ip) >> 80 & 0xFFFFFFFF)
    return None


def _host(host: str, *, bracketed: bool) -> str:
    """The host in ASCII. Raises RefusedAddress for an address that is not public and for a spelling in disguise."""
    if "%" in host:
        raise _refused(f"the host {host[:80]!r} has a percent sign in it")
    if bracketed:
        return str(ipaddress.ip_address(check_address(host)))
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True, std3_rules=True).decode("ascii")
        except idna.IDNAError as error:
            raise _refused(f"the host {host[:80]!r} is no name") from error
    host = host.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused(f"the host {host[:80]!r} is no name")
    if _NUMBER.fullmatch(labels[-1]):
        if re.fullmatch(r"(?:0|[1-9]\d{0,2})(?:\.(?:0|[1-9]\d{0,2})){3}", host) is None:
            raise _refused(f"the host {host[:80]!r} is an address in disguise")
        return check_address(host)
    if len(labels) == 1 or labels[-1] in ("localhost", "local", "internal", "lan", "home", "onion", "arpa"):
        raise _refused(f"the host {host[:80]!r} is a name inside a network")
    return host


def _ascii(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="!#$%&'()*+,/:;=?@[]~-._")


def _refused(what: str) -> RefusedAddress:
    return RefusedAddress(what, "Download it yourself and put the file into the collection.")
