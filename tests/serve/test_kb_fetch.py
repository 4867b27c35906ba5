"""URLs that lead inside are refused before any packet: the resolver and the connector are recorders, and nothing leaves loopback."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Sequence
from pathlib import Path

import httpcore
import pytest

from hornbook.errors import DownloadError, HornbookError
from hornbook.serve.kb.addresses import RefusedAddress, check_address, check_url
from hornbook.serve.kb.fetch import Fetched, Fetcher, TooLarge

PUBLIC = "93.184.216.34"

REFUSED_URLS = [
    "file:///etc/passwd", "ftp://example.org/a", "gopher://example.org/", "data:text/plain,hi", "//example.org/a", "example.org",
    "http:///a", "http://", "javascript:alert(1)", "unix:///var/run/docker.sock",
    "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://017700000001/",
    "http://0177.0.0.1/", "http://127.0.0.1./", "http://127.000.000.001/", "http://0/", "http://0.0.0.0/", "http://127.0.0.1:80/",
    "http://\uff11\uff12\uff17.0.0.1/", "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://1.2.3.4.5/", "http://1.1/",
    "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/",
    "http://100.64.0.1/", "http://100.100.100.200/", "http://168.63.129.16/", "http://192.0.0.192/", "http://198.18.0.1/",
    "http://192.0.2.1/", "http://224.0.0.1/", "http://240.0.0.1/", "http://255.255.255.255/",
    "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/", "http://[64:ff9b::a9fe:a9fe]/", "http://[64:ff9b:1::1]/", "http://[2002:7f00:1::]/",
    "http://[2002:a00:1::]/", "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/",
    "http://[fc00::1]/", "http://[fd00:ec2::254]/", "http://[fec0::1]/", "http://[ff02::1]/", "http://[2001:db8::1]/",
    "http://localhost/", "http://LOCALHOST./", "http://a.localhost/", "http://printer/", "http://nas.local/", "http://db.internal/",
    "http://user@example.org/", "http://user:pw@example.org/", "http://example.org@127.0.0.1/", "http://example.org:22/",
    "http://example.org:6379/", "http://example.org:11500/", "http://example.org:99999/", "http://exa mple.org/",
    "http://example.org\\@127.0.0.1/", "http://example.org/a\r\nHost: b", "http://example.org/\x00", "http://%31%32%37.0.0.1/",
    "http://-a.example.org/", "http://a..example.org/", f"http://{'a' * 64}.org/", "http://example.org/" + "a" * 3000, "http://[::1",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_url_that_leads_inside_is_refused_before_it_is_looked_up(url: str, tmp_path: Path) -> None:
    net = Net()
    with pytest.raises(RefusedAddress):
        net.fetch(url, tmp_path / "file")
    assert net.resolved == [] and net.connected == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://example.org", "example.org", 443, "/"),
        ("http://EXAMPLE.org:8080/a%20b?c=d#e", "example.org", 8080, "/a%20b?c=d"),
        ("https://例え.jp/文書.html", "xn--r8jz45g.jp", 443, "/%E6%96%87%E6%9B%B8.html"),
        (f"http://{PUBLIC}/", PUBLIC, 80, "/"),
        ("http://[2606:2800:220:1:248:1893:25c8:1946]/", "2606:2800:220:1:248:1893:25c8:1946", 80, "/"),
    ],
)
def test_a_public_url_is_read_in_its_one_spelling(url: str, host: str, port: int, path: str) -> None:
    assert check_url(url)[1:4] == (host, port, path)


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "2606:4700::1111", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"]
)
def test_addresses_of_the_public_internet_pass(address: str) -> None:
    assert check_address(address) == address


# --------------------------------------------------------------------------------------------------- with a network


class Net:
    """A name server and a wire that write down what is asked of them. Every wire ends in this process."""

    def __init__(self, names: dict[str, Sequence[str]] | None = None, pages: dict[str, bytes] | None = None) -> None:
        self.names, self.pages = names or {}, pages or {}
        self.resolved: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.asked: list[bytes] = []
        self._port = 0

    async def resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        return list(self.names.get(host, [host] if host == PUBLIC else []))

    async def connect(self, address: str, port: int, timeout: float) -> httpcore.AsyncNetworkStream:
        self.connected.append((address, port))
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self._port, timeout=timeout)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        host = next(line[6:] for line in head.decode().split("\r\n") if line.lower().startswith("host: "))
        page = self.pages.get(host + head.split()[1].decode(), b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        try:
            writer.write(page)
            await writer.drain()
        except ConnectionError:
            pass
        if b"slow" not in page:
            writer.close()

    def fetch(self, url: str, into: Path, *, max_bytes: int = 1 << 20, seconds: float = 10) -> Fetched:
        async def run() -> Fetched:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self._port = server.sockets[0].getsockname()[1]
            try:
                fetcher = Fetcher(resolve=self.resolve, connect=self.connect)
                return await fetcher.fetch(url, into, max_bytes=max_bytes, seconds=seconds)
            finally:
                server.close()

        return asyncio.run(run())


def page(body: bytes, kind: str = "text/html; charset=utf-8", *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def moved(to: str) -> bytes:
    return page(b"", "text/html", f"Location: {to}", status="302 Found")


def test_what_is_fetched_comes_from_the_address_that_was_checked_and_from_no_second_look(tmp_path: Path) -> None:
    net = Net({"example.org": [PUBLIC]}, {"example.org/a/notes": page(b"<p>Kiwis lay one egg.</p>")})
    found = net.fetch("http://example.org/a/notes", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"<p>Kiwis lay one egg.</p>"
    assert found.sha256 == hashlib.sha256(b"<p>Kiwis lay one egg.</p>").hexdigest()
    assert (found.name, found.size, found.url) == ("notes.html", 25, "http://example.org/a/notes")
    assert net.resolved == ["example.org"] and net.connected == [(PUBLIC, 80)]
    assert b"Accept-Encoding: identity" in net.asked[0]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        [PUBLIC, "10.0.0.5"],
        ["::1"],
        ["::ffff:169.254.169.254"],
        ["64:ff9b::a00:1"],
        ["fe80::1%eth0"],
        ["0.0.0.0"],
    ],
)
def test_a_name_with_one_address_inside_is_not_connected_to_at_all(addresses: list[str], tmp_path: Path) -> None:
    net = Net({"rebound.example.org": addresses})
    with pytest.raises(RefusedAddress, match="not an address of the public internet|no address"):
        net.fetch("http://rebound.example.org/", tmp_path / "file")
    assert net.connected == []


@pytest.mark.parametrize(
    "to",
    ["http://127.0.0.1/", "http://inside.example.org/", "file:///etc/passwd", "http://[::1]:8080/x", "//2130706433/"],
)
def test_a_redirect_that_leads_inside_is_refused_before_it_is_followed(to: str, tmp_path: Path) -> None:
    net = Net({"example.org": [PUBLIC], "inside.example.org": ["192.168.0.1"]}, {"example.org/": moved(to)})
    with pytest.raises(RefusedAddress):
        net.fetch("http://example.org/", tmp_path / "file")
    assert net.connected == [(PUBLIC, 80)] and not (tmp_path / "file").exists()


def test_a_name_that_changes_its_address_between_redirects_is_checked_each_time(tmp_path: Path) -> None:
    net = Net({"example.org": [PUBLIC]}, {"example.org/": moved("/again")})
    seen: list[str] = []

    async def turning(host: str, port: int) -> list[str]:
        seen.append(host)
        return [PUBLIC] if len(seen) == 1 else ["127.0.0.1"]

    net.resolve = turning  # type: ignore[method-assign]
    with pytest.raises(RefusedAddress):
        net.fetch("http://example.org/", tmp_path / "file")
    assert len(seen) == 2 and net.connected == [(PUBLIC, 80)]


def test_a_secure_page_must_prove_the_name_that_was_asked_for(tmp_path: Path) -> None:
    shaken: list[tuple[str | None, ssl.VerifyMode, bool]] = []

    class Wire(httpcore.AsyncNetworkStream):
        async def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.AsyncNetworkStream:
            shaken.append((server_hostname, ssl_context.verify_mode, ssl_context.check_hostname))
            raise httpcore.ConnectError("the certificate is for another name")

        async def aclose(self) -> None:
            pass

    net = Net({"example.org": [PUBLIC]})

    async def connect(address: str, port: int, timeout: float) -> httpcore.AsyncNetworkStream:
        net.connected.append((address, port))
        return Wire()

    net.connect = connect  # type: ignore[method-assign]
    with pytest.raises(DownloadError, match="another name"):
        net.fetch("https://example.org/", tmp_path / "file")
    assert net.connected == [(PUBLIC, 443)] and shaken == [("example.org", ssl.CERT_REQUIRED, True)]


def test_redirects_are_followed_and_end(tmp_path: Path) -> None:
    names = {"example.org": [PUBLIC], "b.example.org": [PUBLIC]}
    net = Net(
        names,
        {
            "example.org/": moved("http://b.example.org/x.pdf?y=1"),
            "b.example.org/x.pdf?y=1": page(b"%PDF-1.4", "application/pdf"),
        },
    )
    found = net.fetch("http://example.org/", tmp_path / "file")
    assert (found.name, found.url) == ("x.pdf", "http://b.example.org/x.pdf?y=1")
    with pytest.raises(DownloadError, match="redirects"):
        Net({"example.org": [PUBLIC]}, {"example.org/": moved("/")}).fetch("http://example.org/", tmp_path / "other")


FAILS: list[tuple[bytes, type[HornbookError], str]] = [
    (page(b"x" * 3000), TooLarge, "larger than"),
    (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + b"x" * 3000, TooLarge, "larger than"),
    (page(b"\x89PNG", "image/png"), DownloadError, "image/png"),
    (page(b"\x1f\x8b", "text/html", "Content-Encoding: gzip"), DownloadError, "packed"),
    (page(b"no", status="403 Forbidden"), DownloadError, "403"),
    (b"what is this\r\n\r\n", DownloadError, "cannot be fetched"),
    (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\nslow", DownloadError, "within 0.5 s"),
    (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\nhalf",
        DownloadError,
        "cannot be fetched",
    ),
]


@pytest.mark.parametrize(("answer", "kind", "said"), FAILS, ids=[said for _, _, said in FAILS])
def test_what_cannot_be_taken_is_said_and_leaves_no_file(
    answer: bytes, kind: type[HornbookError], said: str, tmp_path: Path
) -> None:
    net = Net({"example.org": [PUBLIC]}, {"example.org/": answer})
    with pytest.raises(kind, match=said):
        net.fetch("http://example.org/", tmp_path / "file", max_bytes=2000, seconds=0.5)
    assert not (tmp_path / "file").exists()


def test_a_name_without_an_address_is_said(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no address"):
        Net().fetch("http://nowhere.example.org/", tmp_path / "file")


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("/paper.pdf", "application/pdf", "paper.pdf"),
        ("/paper", "application/pdf", "paper.pdf"),
        ("/", "text/html", "example.org.html"),
        ("/notes.md", "text/plain", "notes.md"),
        ("/notes", "text/plain", "notes.txt"),
        ("/feed", "application/rss+xml", "feed.rss"),
        ("/a.php", "text/html", "a.php.html"),
        ("/%E6%96%87.docx", "application/octet-stream", "文.docx"),
    ],
)
def test_the_name_has_the_suffix_by_which_it_will_be_read(path: str, kind: str, name: str, tmp_path: Path) -> None:
    net = Net({"example.org": [PUBLIC]}, {f"example.org{path}": page(b"text", kind)})
    assert net.fetch(f"http://example.org{path}", tmp_path / "file").name == name
