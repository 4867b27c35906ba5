"""What is private becomes a mark of its kind; what only looks like it stays."""

from __future__ import annotations

import pytest

from hornbook.data.private import KINDS, luhn, scrub
from hornbook.errors import UsageError

PRIVATE = {
    "EMAIL": [
        "write to anna.mueller+news@mail.example.co.uk.", "邮箱：zhang_san@163.com，谢谢", "<a.b@c-d.org>",
    ],
    "PHONE": [
        "call +44 20 7946 0958 now", "+1 (415) 555-2671", "(415) 555-2671", "415-555-2671", "1-800-555-0199.", "+49 (0)30 901820",
        "手机13800138000。", "电话：138 0013 8000", "+86 138-0013-8000", "010-62770334", "+4915112345678", "（021）62770334", "0044 20 7946 0958",
    ],
    "IP": ["from 93.184.216.34 at noon", "host 8.8.8.8:53", "2606:4700:4700::1111", "[2a00:1450:4001:0831:0000:0000:0000:200e]"],
    "CARD": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "3782 822463 10005", "6011111111111117"],
    "IBAN": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR14 2004 1010 0505 0001 3M02 606 BIC AGRIFRPP"],
    "SSN": ["SSN 536-90-4399."],
    "RESIDENT_ID": ["身份证号11010519491231002X。", "ID 11010519491231002x"],
    "KEY": [
        "ghp_" + "a1B2" * 9, "AKIAIOSFODNN7EXAMPLE", "AIza" + "Sy0_-" * 7, "hf_" + "aB3" * 11, "sk-proj-" + "Ab1_" * 10,
        "xoxb-123456789012-abcdefABCDEF", "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTYifQ.dozjgNryP4J3jVmNHl0w5N",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow1\n-----END RSA PRIVATE KEY-----",
    ],
    "CREDENTIALS": ["postgres://admin:s3cret@db.example.com:5432/x"],
}  # fmt: skip

HARMLESS = [
    "Version 1.2.3.4 and v10.0.19041.1 came out", "release 3.11.7", "版本 2.3.4.5", "127.0.0.1 and 192.168.1.10, 10.0.0.1, 0.0.0.0",
    "ISBN 978-3-16-148410-0", "ISBN 0-306-40615-2", "ISBN-13: 9783161484100", "pp. 123-456, 1998-2004, 12-45-1999",
    "2024-01-15 12:30:45", "2024-01-15T12:30:45.123456", "12/31/1999", "3.14159265358979", "1,234,567,890", "+100 000 000 people",
    "arXiv 2112.11446, doi 10.1145/1327452.1327492", "std::vector<int> a::b ff::ee", "icon@2x.png and git@host.org:me/it.git", "@handle at 5 pm",
    "4111 1111 1111 1112", "DE89 3704 0044 0532 0130 01", "000-12-3456 666-12-3456 900-12-3456", "110105194912310021", "0xdeadbeef 1234567890",
    "http://example.com:80/a@b", "sk-learn and a sk_test", "12345678901", "the 13-14 1500 to 1600 1700", "1600000000000", "Section 8.8.4.4",
    "2001:db8::1 in the handbook", "12:30:45:11", "99999999999999999999", "0.5 0.25 0.125 0.0625", "第1.2.3.4节",
]  # fmt: skip


@pytest.mark.parametrize("kind", PRIVATE)
def test_private_text_becomes_a_mark_of_its_kind(kind: str) -> None:
    for text in PRIVATE[kind]:
        found = scrub(text)
        assert found.counts == {kind: 1}, (text, found)
        assert f"[{kind}]" in found.text
        assert scrub(found.text) == (found.text, {}), "a mark is found again"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_private_stays(text: str) -> None:
    assert scrub(text) == (text, {})


def test_what_surrounds_a_find_stays() -> None:
    text = "Mail a@b.org or b@c.org from 8.8.8.8, card 4111111111111111."
    assert scrub(text) == ("Mail [EMAIL] or [EMAIL] from [IP], card [CARD].", {"EMAIL": 2, "IP": 1, "CARD": 1})
    assert scrub("ftp://u:p@example.org/a").text == "ftp://[CREDENTIALS]@example.org/a"
    assert scrub("FR14 2004 1010 0505 0001 3M02 606 BIC X").text == "[IBAN] BIC X"


def test_kinds_may_be_chosen_and_an_unknown_one_is_refused() -> None:
    assert scrub("a@b.org 8.8.8.8", ["IP"]).text == "a@b.org [IP]"
    with pytest.raises(UsageError, match="EMAILS"):
        scrub("a@b.org", ["EMAILS"])
    assert set(KINDS) == set(PRIVATE)


def test_long_runs_of_signs_take_no_time() -> None:
    for sign in ("1", "1-", "+1 ", "a.", "a@", "A1 ", "1:", "(1", "://a:", "-----BEGIN PRIVATE KEY-----"):
        scrub(sign * 20_000)


def test_luhn() -> None:
    assert luhn("79927398713") and not luhn("79927398710")
