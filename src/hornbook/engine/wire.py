"""A model server over HTTP: one request until it is answered, and an answer that comes piece by piece.

    Wire.post -> JSON          tried again, later and later, while the server is busy, broken or away; never after a refusal
    Wire.stream -> Events      server-sent events, whatever pieces the network cuts them into; closed, the connection is too

What goes wrong is named, in the server's own words where it has any. The key goes into one header and nowhere else.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from hornbook.errors import ContextTooLong, HornbookError, ModelClosed, RemoteError, RemoteRefused, UsageError

if TYPE_CHECKING:
    import httpx

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds between tries: doubled each time, and each a random part of it
LONGEST_ASKED = 60.0  # seconds; a server that asks for more in Retry-After is not waited for
CONNECT = 10.0  # seconds
LONGEST_EVENT = 1 << 24  # bytes
_TOO_LONG = ("context_length_exceeded", "exceed_context_size", "maximum context length", "context window")


def is_loopback(url: str) -> bool:
    """Does the address lead to this machine itself?"""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_url(url: str) -> str:
    """The address without a slash at its end. Raises UsageError where it is none of a server."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{url!r} is not the address of a server", "Write http://HOST:PORT/v1, or https://.")
    if parts.username or parts.password:
        raise UsageError("the address holds a name or a password", "Put the key into HORNBOOK_API_KEY.")
    return url.rstrip("/")


class Wire:
    """Requests to one server, from any thread. ``timeout``: seconds that the server may be silent."""

    def __init__(self, base_url: str, *, key: str = "", timeout: float = 600.0, retries: int = 3) -> None:
        import httpx

        self.base_url = checked_url(base_url)
        self._key = key = key.strip()  # of a file, a line's end comes with it
        if not (key.isascii() and key.isprintable()):
            raise UsageError(
                f"the key for {self.base_url} has characters that no header can carry", "Set HORNBOOK_API_KEY again."
            )
        self.retries = retries
        self.timeout = timeout
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client: httpx.Client | None = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(CONNECT, timeout), pool=None),
            limits=httpx.Limits(max_connections=None),
            # a proxy is for other machines; and a redirect might lead the key elsewhere, so that none is followed
            trust_env=not is_loopback(self.base_url),
        )

    def get(self, path: str) -> Any:
        return self._json(self._answered("GET", path, None), path)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The server's JSON. Raises RemoteRefused (4xx), ContextTooLong, RemoteError, ModelClosed."""
        return self._json(self._answered("POST", path, body), path)

    def stream(self, path: str, body: Mapping[str, Any]) -> Events:
        """The events of an answer; the server has accepted the request when this returns. Raises as ``post``."""
        return Events(self, self._answered("POST", path, body, stream=True))

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @property
    def closed(self) -> bool:
        return self._client is None

    # --- trying

    def _answered(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, stream: bool = False
    ) -> httpx.Response:
        """A response with a status below 300, its body not read yet where ``stream``."""
        import httpx

        url = path if path.startswith("http") else self.base_url + path
        for attempt in range(self.retries + 1):
            client = self._client
            if client is None:
                raise ModelClosed(f"the connection to {self.base_url} was closed", "Load it again.")
            asked = 0.0
            try:
                response = client.send(client.build_request(method, url, json=body), stream=True)
                if not (stream and response.status_code < 300):
                    with closing(response):
                        response.read()
            except (httpx.ReadTimeout, httpx.WriteTimeout) as error:  # it may be working still: asking twice is no help
                raise self._silent() from error
            except httpx.HTTPError as error:
                failure = self._away(error)
            except RuntimeError as error:  # closed by another thread, just now
                raise self._away(error) from error
            else:
                if response.status_code < 300:
                    return response
                if response.status_code != 429 and response.status_code < 500:
                    self._refused(response)
                failure = self._broken(response, attempt + 1)
                asked = _retry_after(response.headers.get("Retry-After", ""))
            if attempt == self.retries or asked > LONGEST_ASKED:
                break
            longest = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
            time.sleep(asked or random.uniform(longest / 2, longest))
        raise failure

    def _json(self, response: httpx.Response, path: str) -> Any:
        return as_json(response.content, self.base_url + path)

    # --- what went wrong

    def _away(self, error: Exception) -> HornbookError:
        if self.closed:
            return ModelClosed(f"the connection to {self.base_url} was closed", "Load it again.")
        return RemoteError(
            f"{self.base_url} cannot be reached, tried {self.retries + 1} times ({_said(error)})",
            "Is the server running, and the address right?",
        )

    def _silent(self) -> RemoteError:
        return RemoteError(
            f"{self.base_url} was silent for {self.timeout:g} s", "Give it more time with timeout=, or ask for less."
        )

    def _broken(self, response: httpx.Response, tries: int) -> RemoteError:
        busy = response.status_code == 429
        said = self.told(response.content)
        wait = response.headers.get("Retry-After")
        return RemoteError(
            f"{self.base_url} {'is busy' if busy else 'failed'} ({response.status_code}, tried {tries} times): {said}",
            f"It asks for a pause: {wait}." if wait else "Try again later.",
        )

    def told(self, data: bytes) -> str:
        """What the server says of an error; a key that it repeats is left out."""
        return _words(data.replace(self._key.encode(), b"(the key)") if self._key else data)

    def _refused(self, response: httpx.Response) -> NoReturn:
        said = self.told(response.content)
        status = response.status_code
        if status < 400:
            where = response.headers.get("Location", "elsewhere")
            raise RemoteRefused(f"{self.base_url} points to {where} ({status})", "Give that address, if you trust it.")
        if status in (400, 413, 422) and any(sign in response.text for sign in _TOO_LONG):
            raise ContextTooLong(f"{self.base_url} refused: {said}", "Shorten the prompt.")
        remedy = {
            401: "Put its key into HORNBOOK_API_KEY.",
            403: "Put its key into HORNBOOK_API_KEY.",
            404: "Has the server that model, and is the address right up to /v1?",
        }
        raise RemoteRefused(f"{self.base_url} refused ({status}): {said}", remedy.get(status, ""), status=status)


class Events(Iterator[dict[str, Any]]):
    """The JSON objects of a stream of server-sent events, until ``[DONE]`` or the end; ``done`` tells which it was.

    Closing it, or dropping it, closes the connection, and a server then stops its work.
    """

    def __init__(self, wire: Wire, response: httpx.Response) -> None:
        self.done = False
        self._wire = wire
        self._response: httpx.Response | None = response
        self._lines = _lines(response.iter_bytes)

    def __next__(self) -> dict[str, Any]:
        import httpx

        if self._response is None:
            raise StopIteration
        base_url = self._wire.base_url
        if self._wire.closed:
            self.close()
            raise ModelClosed(f"the connection to {base_url} was closed", "Load it again.")
        try:
            data = self._data()
            if data is None:
                self.close()
                raise StopIteration
            event = as_json(data, base_url)
            if isinstance(event, dict) and event.get("error"):
                raise RemoteError(
                    f"{base_url} failed in the middle of its answer: {self._wire.told(data)}", "Try again."
                )
            if not isinstance(event, dict):
                raise RemoteError(f"{base_url} sent what is no event: {_words(data)}", "Is it an OpenAI API?")
            return event
        except httpx.ReadTimeout as error:
            self.close()
            raise self._wire._silent() from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            self.close()
            if self._wire.closed:
                raise ModelClosed(f"the connection to {base_url} was closed", "Load it again.") from error
            raise RemoteError(
                f"{base_url} broke off in the middle of its answer ({_said(error)})", "Try again."
            ) from error
        except HornbookError:
            self.close()
            raise

    def _data(self) -> bytes | None:
        """The data of the next event, its lines joined; None at the end. Comments and other fields are passed over."""
        parts: list[bytes] = []
        for line in self._lines:
            if line.startswith(b"data:"):
                parts.append(line[5:].removeprefix(b" "))
            elif not line and parts:
                break
        data = b"\n".join(parts)
        if data.strip() == b"[DONE]":
            self.done = True
        return None if self.done or not parts else data

    def close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def __del__(self) -> None:
        if getattr(self, "_response", None) is not None:
            self.close()


def _lines(pieces: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    """Whole lines, ended by LF, CR LF or the end, of bytes that may be cut anywhere, in a character too."""
    rest = b""
    for piece in pieces():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
        if len(rest) > LONGEST_EVENT:
            raise RemoteError(f"the server sent a line of more than {LONGEST_EVENT:,} bytes", "Is it an OpenAI API?")
    if rest:
        yield rest


def as_json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RemoteError(f"{where} sent what is not JSON: {_words(data)}", "Is it an OpenAI API?") from error


def _words(data: bytes) -> str:
    """What a server says of an error, on one line: {"error": {"message"}}, {"error"}, {"detail"}, or the text itself."""
    text = data.decode("utf-8", "replace")
    try:
        said = json.loads(text)
        while isinstance(said, dict):
            said = next((said[key] for key in ("error", "message", "detail", "msg") if said.get(key)), None)
        text = said if isinstance(said, str) else text
    except (ValueError, RecursionError):
        pass
    line = " ".join(text.split())
    return (line[:300] + "…" if len(line) > 300 else line) or "it said nothing"


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _retry_after(value: str) -> float:
    """Seconds, of a header that gives them, or a date; 0 where it says nothing of use."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
