"""Responses that were stored (``store``, the API's default), so that the next may go on from them: in memory, and only
so many. The oldest are forgotten first, and all of them when the server stops."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from hornbook.serve.openai.faults import RequestFault
from hornbook.types import Message

MOST = 1000
MOST_CHARACTERS = 32_000_000


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """``turns``: the conversation up to its end, without instructions, which do not carry over."""

    told: dict[str, Any]
    items: list[dict[str, Any]]
    turns: tuple[Message, ...]
    owner: str

    @property
    def size(self) -> int:
        return 1000 + sum(len(turn.content) + 200 for turn in self.turns)


class KeptResponses:
    """``owner``: whose key asked; nobody is told another's."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()
        self._size = 0

    def add(self, kept: KeptResponse) -> None:
        self._kept[kept.told["id"]] = kept
        self._size += kept.size
        while len(self._kept) > 1 and (len(self._kept) > MOST or self._size > MOST_CHARACTERS):
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size

    def find(self, id: str, owner: str, *, param: str | None = None) -> KeptResponse:
        """Raises RequestFault: 404, or 400 where it is a body's ``param`` that names it."""
        kept = self._kept.get(id)
        if kept is None or kept.owner != owner:
            raise RequestFault(
                f"no response is kept here with the id {id[:80]!r}",
                "It may have been forgotten, for only the last are kept: send the whole conversation as input.",
                param=param, code="previous_response_not_found" if param else "not_found",
                status=400 if param else 404,
            )  # fmt: skip
        self._kept.move_to_end(id)
        return kept

    def remove(self, id: str, owner: str) -> None:
        self._size -= self.find(id, owner).size
        del self._kept[id]
