"""An encoded example as a person sees it, and the batches of rows of tokens."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from hornbook.recipes.config import Recipe
from hornbook.recipes.preview import Piece
from hornbook.recipes.sets import FeedOf

if TYPE_CHECKING:
    from hornbook.data.feed import Feed
    from hornbook.data.table import Table
    from hornbook.text.tokenizer import Tokenizer

MOST = 400  # tokens that are shown


def shown(table: Table, tokenizer: Tokenizer, row: int = 0) -> tuple[Piece, ...]:
    """A row's text in stretches that are learnt and that are not. A character of several tokens stays whole where all
    of them are in one stretch."""
    found = table[row]
    ids, learnt = found.ids[:MOST].tolist(), found.learnt[:MOST].tolist()
    pieces: list[Piece] = []
    for flag, group in groupby(zip(ids, learnt, strict=True), key=lambda pair: pair[1]):
        pieces.append((tokenizer.decode([id for id, _ in group], skip_special=False), bool(flag)))
    if len(found.ids) > MOST:
        pieces[-1] = (pieces[-1][0].rstrip("\ufffd"), pieces[-1][1])  # half a character
        pieces.append((f" … ({len(found.ids) - MOST:,} tokens more)", False))
    return tuple(pieces)


def language_feed(recipe: Recipe, tokenizer: Tokenizer) -> FeedOf:
    """Batches of rows of tokens, packed or padded as the recipe says."""
    from hornbook.data import feed

    tokens, padding = recipe.training.tokens, tokenizer.pad_id if tokenizer.pad_id is not None else 0

    def of(table: Table, seed: int) -> Feed:
        if recipe.data.packed and not needs_rows(recipe):
            return feed.packed(table, tokens=tokens, seed=seed, share=adapter_of(recipe) != "loreft")
        return feed.padded(table, tokens=tokens, padding=padding, seed=seed)

    return of


def needs_rows(recipe: Recipe) -> bool:
    """Whether the recipe's adapter puts something before every row, which a packed one has no place for."""
    return adapter_of(recipe) in ("prompt", "ptuning", "prefix")


def adapter_of(recipe: Recipe) -> str | None:
    """The kind of the recipe's adapter. LoReFT edits each document's own beginning: documents cannot share one."""
    return getattr(getattr(recipe, "adapter", None), "kind", None)
