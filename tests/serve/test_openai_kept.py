"""Responses that are kept: for the key that asked, and only so many."""

from __future__ import annotations

import pytest

from hornbook.serve.openai import responses_kept
from hornbook.serve.openai.faults import RequestFault
from hornbook.serve.openai.responses_kept import KeptResponse, KeptResponses
from hornbook.types import Message


def response(id: str, *, owner: str = "", text: str = "x") -> KeptResponse:
    return KeptResponse({"id": id}, [], (Message("user", text),), owner)


def test_nobody_is_told_anothers_response() -> None:
    kept = KeptResponses()
    kept.add(response("resp_1", owner="ada"))
    assert kept.find("resp_1", "ada").told == {"id": "resp_1"}
    for act in (
        lambda: kept.find("resp_1", "eve"),
        lambda: kept.remove("resp_1", "eve"),
        lambda: kept.find("resp_1", ""),
    ):
        with pytest.raises(RequestFault) as refused:
            act()
        assert refused.value.status == 404
    assert kept.find("resp_1", "ada")


def test_the_longest_unused_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses_kept, "MOST", 3)
    kept = KeptResponses()
    for id in ("a", "b", "c"):
        kept.add(response(id))
    kept.find("a", "")
    kept.add(response("d"))
    assert [kept.find(id, "").told["id"] for id in ("a", "c", "d")] == ["a", "c", "d"]
    with pytest.raises(RequestFault):
        kept.find("b", "")


def test_long_conversations_push_out_others_and_forgetting_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses_kept, "MOST_CHARACTERS", 10_000)
    kept = KeptResponses()
    kept.add(response("a", text="y" * 6000))
    kept.remove("a", "")
    kept.add(response("b", text="y" * 6000))
    kept.add(response("c"))
    assert kept.find("b", "") and kept.find("c", "")
    kept.add(response("d", text="y" * 6000))
    with pytest.raises(RequestFault):
        kept.find("b", "")
    assert kept.find("d", "")
