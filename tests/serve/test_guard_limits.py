"""Limits: JSON's nesting followed chunk by chunk, in linear time; buckets that refill; shapes that no client sends."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import UsageError
from hornbook.serve.guard import is_loopback, needs_key, policy_of
from hornbook.serve.guard.characters import Characters
from hornbook.serve.guard.limits import Nesting, check_shape
from hornbook.serve.guard.policy import Policy, check_origin
from hornbook.serve.guard.rates import CALLERS, Buckets, caller_of, retry_after
from hornbook.serve.guard.refusals import Refusal, printable
from hornbook.serve.options import Options

TEXT = st.text(alphabet='ab\\"[]{}\u00e9\u4e2d', max_size=12)
JSON = st.recursive(
    TEXT | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@settings(max_examples=300, deadline=None)
@given(JSON, st.lists(st.integers(0, 60), max_size=6))
def test_nesting_is_that_of_the_parsed_text_however_it_is_cut(value: object, cuts: list[int]) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    chunks = [text[a:b] for a, b in zip(places, places[1:], strict=False)]
    depth = depth_of(value)

    follower = Nesting(depth)
    for chunk in chunks:
        follower.take(chunk)
    assert follower.depth == 0
    if depth:
        with pytest.raises(Refusal) as caught:
            stricter = Nesting(depth - 1)
            for chunk in chunks:
                stricter.take(chunk)
        assert caught.value.status == 400


@pytest.mark.parametrize(
    "unit",
    [b'\\"', b'"', b'"\\', b"\\", b"[]", b"{", b'[]"[', b'"\\"\\\\'],
    ids=repr,
)
def test_following_takes_linear_time_whatever_is_sent(unit: bytes) -> None:
    chunk = b'"' + unit * (65_536 // len(unit))
    began = time.perf_counter()
    followers = (Nesting(10**9), Characters())
    for _ in range(8):
        for follower in followers:
            follower.take(chunk)
    assert time.perf_counter() - began < 1.0  # half a megabyte; quadratic time would take minutes


def _characters(chunks: list[bytes]) -> bool:
    """Whether a body passes."""
    follower = Characters()
    try:
        for chunk in chunks:
            follower.take(chunk)
    except Refusal as refusal:
        assert refusal.status == 400
        return False
    return True


PIECES = st.sampled_from(
    [
        "\\ud83d\\ude00",
        "\\uD83D",
        "\\uDE00",
        "\\\\",
        "\\n",
        '\\"',
        "u",
        "d83d",
        "a",
        "é",
        "한",
        "😀",
        "\\u0041",
        "\\ud7ff",
        "\\ue000",
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=8), st.lists(st.integers(0, 60), max_size=6))
def test_half_a_surrogate_pair_is_found_however_the_body_is_cut(pieces: list[str], cuts: list[int]) -> None:
    text = ('"' + "".join(pieces) + '"').encode()
    read = json.loads(text)
    sound = not any("\ud800" <= sign <= "\udfff" for sign in read)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert _characters([text[a:b] for a, b in zip(places, places[1:], strict=False)]) is sound


@pytest.mark.parametrize(
    "body", ['{"a": "é中"}'.encode("utf-16"), b'"a"'.decode().encode("utf-32"), b'"\xed\xa0\x80"', b'"\x00"']
)
def test_a_body_that_is_not_utf_8_is_refused_though_python_would_read_it(body: bytes) -> None:
    assert not _characters([body])
    assert not _characters([body[i : i + 1] for i in range(len(body))])


def test_a_bucket_lets_a_burst_in_then_its_rate_and_tells_how_long_to_wait() -> None:
    now = [0.0]
    buckets = Buckets(rate=2.0, burst=3, now=lambda: now[0])
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0]
    wait = buckets.take("a")
    assert wait == pytest.approx(0.5)
    assert buckets.take("b") == 0  # another caller is not held up
    now[0] += wait
    assert buckets.take("a") == 0 and buckets.take("a") > 0
    now[0] += 1000
    assert [buckets.take("a") == 0 for _ in range(4)] == [True, True, True, False]  # never more than the burst


def test_buckets_do_not_grow_with_the_number_of_callers() -> None:
    buckets = Buckets(rate=1.0, burst=1)
    for i in range(CALLERS + 50):
        buckets.take(str(i))
    assert len(buckets) == CALLERS


def test_retry_after_is_never_zero_and_never_too_early() -> None:
    assert [retry_after(seconds) for seconds in (0.01, 1.0, 1.01, 59.5)] == [b"1", b"1", b"2", b"60"]


def test_an_ipv6_customer_is_one_caller() -> None:
    assert caller_of(("2001:db8::1", 1)) == caller_of(("2001:db8::ffff", 2)) != caller_of(("2001:db8:0:1::1", 3))
    assert caller_of(("::ffff:10.0.0.7", 1)) == caller_of(("10.0.0.7", 9)) == "10.0.0.7"
    assert caller_of(("fe80::1%eth0", 1)) == "fe80::/64" and caller_of(None) == "unknown"


@pytest.mark.parametrize(
    "path",
    ["/v1/../etc/passwd", "/..", "/kb/./x", "/kb/a\\b", "/kb/\x00", "/kb/a\r\nSet-Cookie: x", "/kb/\ufffd", "http://evil/", "*", ""],
)  # fmt: skip
def test_a_path_that_climbs_or_hides_is_refused(path: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_shape(path, [], Policy())
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "path", ["/", "/kb/中文/documents", "/v1/models/hf:org/name", "/kb/a..b", "/kb/...", "/web/app.js"]
)
def test_a_plain_path_passes(path: str) -> None:
    check_shape(path, [(b"host", b"localhost")], Policy())


def test_what_is_printed_is_one_line() -> None:
    assert printable("a\r\nb\x1b[2J\u202e\u2028中") == "a\\r\\nb\\x1b[2J\\u202e\\u2028中"
    assert len(printable("x" * 1000)) == 201


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST."])
def test_loopback_needs_no_key_unless_asked_for(host: str) -> None:
    assert is_loopback(host) and not needs_key(Options(host=host))
    assert needs_key(Options(host=host, require_key=True))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_any_other_address_needs_one(host: str) -> None:
    assert not is_loopback(host) and needs_key(Options(host=host))


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "example.org",
        "https://a.example/path",
        "https://*.example",
        "HTTPS://A.EXAMPLE",
        "https://u@a.example",
        "https://a.example:99999",
        "https://é.example",
    ],
)
def test_an_origin_is_named_as_browsers_write_it(origin: str) -> None:
    with pytest.raises(UsageError, match="is not an origin"):
        policy_of(Options(cors_origins=(origin,)))


def test_sound_origins_and_names_are_taken() -> None:
    for origin in ("https://a.example", "http://localhost:3000", "http://[::1]:3000", "chrome-extension://abcdef"):
        check_origin(origin)
    policy = policy_of(Options(allow_hosts=("Chat.Example",), cors_origins=("https://a.example",), max_body_mb=2))
    assert policy.hosts == {"chat.example"} and policy.body_bytes == 2_000_000
    for wrong in ("chat.example:80", "http://chat.example", "a b", ""):
        with pytest.raises(UsageError, match="is no host name"):
            policy_of(Options(allow_hosts=(wrong,)))
