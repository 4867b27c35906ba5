"""What is judged, as ids: windows that judge every token once, and texts that go on after others."""

from __future__ import annotations

from pathlib import Path

import pytest

from hornbook.engine.pairing import going_on, joined, whole_of, windows
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import Score


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9, 10, 11, 50])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 9, 10, 21])
def test_every_token_is_judged_once_after_as_much_as_fits(length: int, count: int) -> None:
    ids = list(range(100, 100 + count))
    judged: list[int] = []
    for number, (window, start) in enumerate(windows([7], ids, length)):
        assert 1 <= start < len(window) <= length + 1
        before = [7, *ids][: 1 + len(judged)]
        assert window[:start] == before[len(before) - start :]
        assert start == 1 or len(window) == length + 1  # only the last reaches back, as far as it can
        assert number or window[0] == 7
        judged += window[start:]
    assert judged == ids


def test_windows_are_those_of_the_reference_harness() -> None:
    utils = pytest.importorskip("lm_eval.utils")
    for length in (1, 3, 4, 7):
        for count in (1, 3, 4, 5, 9, 16):
            ids = list(range(count))
            theirs = map(utils.make_disjoint_window, utils.get_rolling_token_windows(ids, 99, length, 1))
            assert [(w[:s], w[s:]) for w, s in windows([99], ids, length)] == list(theirs)


def test_a_whole_is_the_sum_of_its_windows() -> None:
    assert whole_of([Score(-1.0, True, 2), Score(-0.5, False, 1)]) == Score(-1.5, False, 3)
    assert whole_of([]) == Score(0.0, True, 0)


def test_a_text_that_goes_on_gets_no_space_before_it(shared: Path, tmp_path: Path) -> None:
    """Of a vocabulary of SentencePiece, which puts one before every text."""
    model = shared / "tokenizers" / "mistral" / "tokenizer.model.v1"
    (tmp_path / "tokenizer.model").write_bytes(model.read_bytes())
    tokenizer = Tokenizer.from_folder(tmp_path)
    alone = tokenizer.encode("sat", add_special=False)
    assert tokenizer.token(alone[0]).startswith("▁")
    assert "".join(map(tokenizer.token, going_on(tokenizer, "sat"))) == "sat"
    assert "".join(map(tokenizer.token, going_on(tokenizer, " sat"))) == "▁sat"
    assert going_on(tokenizer, "") == []
    (ids, start), (begun, one) = joined(tokenizer, [([1, 5, 6], "sat"), ([], "sat")])
    assert (ids[:start], ids[start:]) == ([1, 5, 6], going_on(tokenizer, "sat"))
    assert (begun[0], one) == (tokenizer.bos_id, 1)
