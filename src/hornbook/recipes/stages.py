"""A chain of recipes: stages by name, each of which may take what an earlier one has made as its model or its adapter.

stages:
  words: {recipe: pretrain, ...}
  talk:  {recipe: sft, model: words, ...}
  small: {recipe: quantise, model: talk}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hornbook.recipes.config import Evaluation, Source, Strict, said
from hornbook.recipes.kinds import Classify, Mlm, Pretrain, Seq2seq, Sft, Span


class Merge(Strict):
    """Fold an adapter into its model."""

    recipe: Literal["merge"] = said(text="merge")
    model: str = said(text="the model that the adapter was trained on")
    adapter: str = said(text="a stage or a run that has trained one, or its folder")


class Quantise(Strict):
    """Write a model as GGUF, compared with the model before it counts."""

    recipe: Literal["quantise"] = said(text="quantise")
    model: str = said(text="a stage, a run, a name or a path")
    type: str = said("Q8_0", text="F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, ...")
    max_kl: float | None = said(None, gt=0, text="nats a token: the most divergence, in place of the usual")
    min_top1: float | None = said(
        None, ge=0, le=1, text="the least share of equal first choices, in place of the usual"
    )
    evaluate: Evaluation | None = said(None, text="what the copy is asked, beside the model, before it counts")


class Evaluate(Strict):
    """The loss of a model on texts or conversations that it has not learnt."""

    recipe: Literal["evaluate"] = said(text="evaluate")
    model: str = said(text="a stage, a run, a name or a path")
    data: list[Source] = said(min_length=1, text="texts, or conversations of which the assistant's turns count")
    context: int = said(256, ge=2, unit="tokens", text="the longest row")


class Chat(Strict):
    """Ask a model."""

    recipe: Literal["chat"] = said(text="chat")
    model: str = said(text="a stage, a run, a name or a path")
    ask: list[str] = said(min_length=1, text="what it is asked, each by itself")
    tokens: int = said(60, ge=1, unit="tokens", text="the most that an answer has")


Stage = Annotated[
    Pretrain | Mlm | Span | Seq2seq | Sft | Classify | Merge | Quantise | Evaluate | Chat,
    Field(discriminator="recipe"),
]


class Life(Strict):
    """Several recipes one after the other. What is done is not done again; a stage that was killed goes on."""

    recipe: Literal["life"] = said(text="life")
    stages: dict[str, Stage] = said(min_length=1, text="name: a recipe, in the order in which they are done")

    @model_validator(mode="after")
    def _named(self) -> Life:
        for name in self.stages:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"{name!r} is no name of a stage: letters, digits, - and _")
        return self

    def models(self) -> Iterator[str]:
        """The models that are no stages."""
        for stage in self.stages.values():
            model = getattr(stage, "model", None)
            if model is not None and model not in self.stages:
                yield model
