"""A stream shows only what is certain, and all of it together is the decoded text."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hornbook.text.stream import StreamDecoder
from hornbook.text.tokenizer import Tokenizer

TOKENIZERS = ["smollm2", "gemma", "phi3", "minilm", "mistral3"]
TEXTS = [
    "The quick brown fox.",
    "你好，世界。日本語のテキスト",
    "👨‍👩‍👧‍👦 🏳️‍🌈 🇹🇼 e\u0301 a\u0308",
    " leading, trailing \n\n\n",
    "𒀀𐍈 \x00\x7f\ufffd ﷽",
    "it's don't ##ing , . ! ?",
    "",
]
bounded = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def streamed(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool = True) -> list[str]:
    decoder = StreamDecoder(tokenizer, skip_special=skip_special)
    return [*map(decoder.push, ids), decoder.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_real_text_comes_out_whole_and_never_in_half_characters(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    parts = streamed(tokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids)
    assert parts[-1] == ""  # nothing was left over
    assert sum(part.count("\ufffd") for part in parts) == tokenizer.decode(ids).count("\ufffd")


@given(data=st.data(), skip=st.booleans())
@bounded
def test_any_ids_join_to_the_decoded_text(tokenizer: Tokenizer, data: st.DataObject, skip: bool) -> None:
    low = st.integers(0, min(600, tokenizer.vocab_size - 1))  # bytes and control tokens live here
    ids = data.draw(st.lists(low | st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    parts = streamed(tokenizer, ids, skip_special=skip)
    assert "".join(parts) == tokenizer.decode(ids, skip_special=skip)


@given(raw=st.binary(max_size=40))
@bounded
def test_any_bytes_join_to_the_decoded_text(smollm2: Tokenizer, gemma: Tokenizer, raw: bytes) -> None:
    """Byte-fallback tokens may spell anything, UTF-8 or not; what is no character becomes U+FFFD once it is certain."""
    from hornbook.text.detokenize import byte_alphabet

    letter = {byte: character for character, byte in byte_alphabet().items()}
    spelled = {
        smollm2: [smollm2.id(letter[byte]) for byte in raw if smollm2.id(letter[byte]) is not None],
        gemma: [gemma.id(f"<0x{byte:02X}>") for byte in raw],
    }
    for tokenizer, ids in spelled.items():
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)
    assert gemma.decode(spelled[gemma]) == raw.decode("utf-8", "replace")


def test_an_unfinished_character_waits_for_the_flush(gemma: Tokenizer) -> None:
    decoder = StreamDecoder(gemma)
    first, second = (gemma.id(f"<0x{byte:02X}>") for byte in "é".encode())
    assert decoder.push(first) == "" and decoder.push(second) == "é"
    assert decoder.push(first) == "" and decoder.flush() == "\ufffd"


def test_a_flushed_decoder_starts_a_new_text(phi3: Tokenizer) -> None:
    decoder = StreamDecoder(phi3)
    ids = phi3.encode("Hello")
    for _ in range(2):
        assert "".join([*map(decoder.push, ids), decoder.flush()]) == "Hello"


def test_a_push_costs_the_same_late_in_a_text(smollm2: Tokenizer) -> None:
    decoder, ids = StreamDecoder(smollm2), smollm2.encode("once upon a time ") * 100

    def seconds() -> float:
        start = time.process_time()
        for id in ids:
            decoder.push(id)
        return time.process_time() - start

    early = min(seconds() for _ in range(5))
    for id in ids * 30:
        decoder.push(id)
    assert min(seconds() for _ in range(5)) < 5 * early + 0.01
