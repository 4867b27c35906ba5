"""What names or opens a person's things, taken out of texts: each find becomes a mark of its kind, "[EMAIL]".

    EMAIL, PHONE, IP, CARD, IBAN, SSN (US), RESIDENT_ID (China), KEY (secrets of known shapes), CREDENTIALS (in a URL)

A shape alone is not enough where a check exists: cards by Luhn's digit (ISO/IEC 7812) and a known issuer, IBAN by its
remainder (ISO 13616) and length, Chinese resident IDs by their date and check character (GB 11643), US numbers by the
ranges that were given out, addresses of the internet by whether they are public. So version numbers, ISBNs, dates and
page ranges stay. What has no shape (names, streets) is not found: this is a sieve, not a proof of privacy.

Telephone numbers: with a country code (+44 20 7946 0958); North American (415-555-2671); Chinese mobile (138 0013 8000)
and landline with an area code in brackets or with a hyphen (010-62770334).
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from typing import NamedTuple

from hornbook.errors import UsageError


class Kind(NamedTuple):
    """A shape to look for; ``holds`` says whether a find is one. ``needs``: a text without any of these has none, which is
    quickly seen; a pattern is searched for once in a text, whatever the number of kinds that need it."""

    shape: re.Pattern[str]
    holds: Callable[[re.Match[str]], bool]
    needs: re.Pattern[str] | tuple[str, ...]


class Scrubbed(NamedTuple):
    """A text with marks, and how many there are of each kind."""

    text: str
    counts: Counter[str]


def scrub(text: str, kinds: Sequence[str] = ()) -> Scrubbed:
    """Put marks in the place of what is private; ``kinds``: names of `KINDS`, none: all of them.

    A text in which nothing is found is returned as it is. Raises UsageError on a kind that there is not.
    """
    for name in kinds:
        if name not in KINDS:
            raise UsageError(f"there is no kind of private text {name!r}", f"There are {', '.join(KINDS)}.")
    counts: Counter[str] = Counter()
    there = {needed: needed.search(text) is not None for needed in (_DIGITS, _NUMBER)}
    for name, kind in KINDS.items():
        if kinds and name not in kinds:
            continue
        needs = kind.needs
        if not (any(sign in text for sign in needs) if isinstance(needs, tuple) else there[needs]):
            continue

        def mark(found: re.Match[str], name: str = name, kind: Kind = kind) -> str:
            if not kind.holds(found):
                return found.group()
            counts[name] += 1
            return f"[{name}]"

        text = kind.shape.sub(mark, text)
    return Scrubbed(text, counts)


# ------------------------------------------------------------------------------------------------------------ checks


def luhn(digits: str) -> bool:
    """Luhn's check: every second digit from the right doubled, digits of the products added, divides by ten."""
    values = [int(digit) for digit in reversed(digits)]
    return sum(v if i % 2 == 0 else sum(divmod(2 * v, 10)) for i, v in enumerate(values)) % 10 == 0


_ISSUERS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6011|64[4-9]|65|35|62|30[0-5]|3[68]")


def _card(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found.group())
    return 13 <= len(digits) <= 19 and _ISSUERS.match(digits) is not None and luhn(digits) and len(set(digits)) > 1


# Lengths by country, of the registry that SWIFT keeps for ISO 13616.
_IBAN = {
    code: int(length)
    for length, codes in {
        "15": "NO", "16": "BE", "18": "DK FO FI GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU MN XK", "21": "CH HR LI LV",
        "22": "BG BH CR DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM SO TL", "24": "AD CZ ES MD PK RO SA SE SK TN VG",
        "25": "LY PT ST", "26": "IS TR", "27": "BI DJ FR GR IT MC MR SM", "28": "AL AZ BY CY DO GT HU LB NI PL SV",
        "29": "BR EG PS QA UA", "30": "JO KW MU", "31": "MT SC", "32": "LC", "33": "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip
_IBAN_SHAPES = "|".join(
    f"(?:{'|'.join(code for code, n in _IBAN.items() if n == length)})\\d\\d(?:[ -]?[A-Z0-9]){{{length - 4}}}"
    for length in sorted(set(_IBAN.values()))
)


def _iban(found: re.Match[str]) -> bool:
    plain = re.sub(r"[ -]", "", found.group())
    return int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1


def _ssn(found: re.Match[str]) -> bool:
    area, group, serial = found.group().split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def _resident(found: re.Match[str]) -> bool:
    digits = found.group()
    try:
        date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits[:17], _WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == digits[17].upper()


_VERSION = re.compile(
    r"(?:\bv|\bver\.?|version|release|build|section|chapter|§|版本|版|第)\s*[:：=]?\s*$", re.IGNORECASE
)


def _ip(found: re.Match[str]) -> bool:
    """A public address: those of one machine or house name nobody, and 1.2.3.4 after "version" is none."""
    text = found.group()
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 6:
        return address in _GIVEN_OUT and address.is_global
    before = found.string[max(found.start() - 16, 0) : found.start()]
    return address.is_global and not address.is_multicast and _VERSION.search(before) is None


_GIVEN_OUT = ipaddress.ip_network("2000::/3")  # all other public IPv6 is unassigned; "ab::cd" of a program is there

_FILES = frozenset(
    [
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "bmp",
        "ico",
        "pdf",
        "css",
        "js",
        "ts",
        "html",
        "htm",
        "json",
        "xml",
        "md",
        "txt",
        "py",
    ]
)


def _email(found: re.Match[str]) -> bool:
    """Not a picture's "icon@2x.png", nor the "git@host:path" of a program."""
    name, host = found.group().rsplit("@", 1)
    after = found.string[found.end() : found.end() + 2]
    return host.rsplit(".", 1)[1].lower() not in _FILES and not (name.lower() == "git" and after[:1] == ":")


def _phone(found: re.Match[str]) -> bool:
    """With a country code, 9 to 15 digits (E.164 ends there), and not a round number such as +100 000 000."""
    if not found.group().startswith(("+", "00")):
        return True
    digits = re.sub(r"\D", "", found.group())
    return 9 <= len(digits) <= 15 and not digits.endswith("000000")


def _always(found: re.Match[str]) -> bool:
    return True


# ------------------------------------------------------------------------------------------------------------ shapes

_DIGITS = re.compile(r"\d[.:\d]")
_NUMBER = re.compile(r"\d(?:[ ().（）-]{0,3}[A-Z]{0,4}\d){5}")  # six digits with little between them
_SIGNS_OF_KEYS = (
    *(
        "-----BEGIN ",
        "sk-",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "AKIA",
        "ASIA",
        "AIza",
        "xox",
    ),
    *("_live_", "_test_", "hf_", "npm_", "pypi-", "eyJ"),
)
_ALONE, _ENDS = r"(?<![\w.+/-])", r"(?![\w]|[.,-]\d)"
_PHONES = (
    r"(?<![\w.+])\+[1-9]\d{0,2}(?:[ .-]?\(0?\d{1,4}\))?(?:[ .-]?\d{1,4}){2,6}(?!\d)",  # with a country code
    r"(?<![\w.+-])(?<!\d )00[1-9]\d{0,2}(?:[ .-]\d{2,4}){3,5}(?![\d.-])",
    r"(?<![\w.+/-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}([.-]))[2-9]\d{2}(?(1)\1|[ .-])\d{4}(?![\w.-]\d|\w)",  # North America
    r"(?<![\d.+-])(?:86[ -]?)?1[3-9]\d([ -]?)\d{4}\2\d{4}(?![\d]|[.-]\d)",  # China, mobile
    r"(?<![\d.+-])(?:\(0\d{2,3}\)|（0\d{2,3}）|0(?:10|2\d|[3-9]\d{2})-) ?[2-8]\d{6,7}(?![\d]|[.-]\d)",  # and with an area code
)
_KEYS = (
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    r"\bsk-(?:proj-|ant-(?:api\d\d-)?|svcacct-|or-v1-)?[A-Za-z0-9_-]{32,}",  # OpenAI, Anthropic, OpenRouter
    r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}|glpat-[A-Za-z0-9_-]{20,})",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # Amazon
    r"\bAIza[A-Za-z0-9_-]{35}",  # Google
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"\b(?:hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,})",
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web tokens
)

# In this order: what is found first is no longer there for the next, so the stricter shapes come before the looser.
KINDS: dict[str, Kind] = {
    "CREDENTIALS": Kind(re.compile(r"(?<=://)[^\s/@:\"'<>]+:[^\s/@\"'<>]+(?=@[\w.\[-])"), _always, ("://",)),
    "KEY": Kind(re.compile("|".join(_KEYS)), _always, _SIGNS_OF_KEYS),
    "EMAIL": Kind(
        re.compile(r"(?<![\w.+%-])[A-Za-z0-9](?:[\w.+%-]{0,62}[A-Za-z0-9_+-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w@])", re.ASCII),
        _email,
        ("@",),
    ),
    "IBAN": Kind(re.compile(rf"(?<![\w-])(?:{_IBAN_SHAPES})(?!\w)"), _iban, _NUMBER),
    "RESIDENT_ID": Kind(re.compile(r"(?<!\d)[1-8]\d{5}(?:19|20)\d{9}[\dXx](?![\dA-Za-z])"), _resident, _NUMBER),
    "CARD": Kind(re.compile(rf"{_ALONE}\d{{4}}(?:([ -]?)\d{{4}}\1\d{{4}}\1\d{{1,7}}|[ -]?\d{{6}}[ -]?\d{{4,5}}){_ENDS}"), _card, _NUMBER),
    "SSN": Kind(re.compile(rf"{_ALONE}\d{{3}}-\d{{2}}-\d{{4}}{_ENDS}"), _ssn, _NUMBER),
    "IP": Kind(
        re.compile(
            r"(?<![\w.:-])(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d|-\d)|(?:[0-9A-Fa-f]{1,4}:{1,2}){2,7}[0-9A-Fa-f]{1,4}(?![\w:]))"
        ),
        _ip,
        _DIGITS,
    ),
    "PHONE": Kind(re.compile("|".join(_PHONES)), _phone, _NUMBER),
}  # fmt: skip
