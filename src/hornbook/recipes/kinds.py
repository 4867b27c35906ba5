"""The recipes: what each one can say, and the module that carries it out.

RECIPES["sft"] -> Kind(config=Sft, module="hornbook.recipes.sft")          module.prepare(recipe, place) -> Job
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from hornbook.recipes.adapters import Adapter, LowRank
from hornbook.recipes.config import Continued, Data, Evaluation, Recipe, Source, Strict, Training, said


class Sft(Continued):
    """Fine-tune a chat model on conversations, instructions, or prompts and their completions.

    Only what the assistant says is learnt, by the model's own chat template.
    """

    recipe: Literal["sft"] = said(text="sft")
    model: str = said("smollm2:135m", text="a name, a file, a folder or an earlier run")
    adapter: Adapter | None = said(LowRank, text="what is trained beside the frozen model; null: the whole model")
    template: str | None = said(None, text="chatml, or a file with a jinja template; left out: the model's own")
    system: str = said("", text="what stands before a conversation that has no system message of its own")
    learn: Literal["assistant", "last", "all"] = said(
        "assistant", text="every turn of the assistant, its last one, or every token"
    )
    evaluate: Evaluation | None = said(None, text="what the result is asked, beside the model that it was made of")


class Architecture(Strict):
    """The size of a model that begins with random weights."""

    preset: Literal["tiny", "nano", "small", "base"] = said(
        "tiny", text="tiny 2 x 64, nano 4 x 128 (4 heads), small 6 x 384, base 12 x 768; each number below may be set"
    )
    layers: int | None = said(None, ge=1, text="blocks")
    width: int | None = said(None, ge=2, text="of the stream")
    heads: int | None = said(None, ge=1, text="of attention")
    kv_heads: int | None = said(None, ge=1, text="heads of keys and values; left out: as many as heads")
    feedforward: int | None = said(None, ge=1, text="width inside a block; left out: by the preset")
    dropout: float = said(0.0, ge=0, lt=1, text="while it learns")


class Vocabulary(Strict):
    """The tokenizer of a model that begins with random weights."""

    kind: Literal["bpe", "wordpiece", "unigram"] | None = said(
        None, text="which is trained on the data; left out: what models of this kind have"
    )
    size: int = said(4096, ge=260, unit="tokens", text="at most")
    model: str | None = said(None, text="take the tokenizer of this model, and train none")


class New(Recipe):
    """A recipe that can begin with random weights."""

    model: str | None = said(None, text="go on with this model; left out: random weights of the architecture")
    architecture: Architecture = said(Architecture, text="of a model with random weights")
    tokenizer: Vocabulary = said(Vocabulary, text="of a model with random weights")

    @model_validator(mode="after")
    def _one_of(self) -> New:
        for name in ("architecture", "tokenizer"):
            if self.model is not None and name in self.model_fields_set:
                raise ValueError(f"model goes on with {self.model!r} as it is: leave out {name}")
        return self


class Pretrain(New):
    """Learn to tell the next token of plain text: a new model, or one that is read further."""

    recipe: Literal["pretrain"] = said(text="pretrain")
    family: Literal["llama", "gpt2"] = said("llama", text="the form of a new model")
    template: str | None = said(
        None, text="give a new model this chat template: chatml, or a file; it can then be tuned"
    )
    evaluate: Evaluation | None = said(None, text="what the result is asked, beside the model that it was made of")

    @model_validator(mode="after")
    def _beside_nothing(self) -> Pretrain:
        asked = self.evaluate
        if self.model is None and asked is not None and asked.fail_if_worse and asked.baseline == "base":
            raise ValueError("a new model was made of no other: name a baseline in evaluate")
        return self


class Mlm(New):
    """Learn to tell hidden tokens, as BERT was trained, and whether sentences follow each other."""

    recipe: Literal["mlm"] = said(text="mlm")
    next_sentence: bool = said(True, text="learn from pairs of stretches of text as well; false: hidden tokens alone")
    whole_words: bool = said(False, text="hide the tokens of a word together")


class Span(New):
    """Learn to write the stretches that were cut out of a text, as T5 was trained."""

    recipe: Literal["span"] = said(text="span")


class Seq2seqData(Data):
    """What is learnt from, and what is held out: pairs."""

    validation: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] | list[Source] = said(
        200, text="pairs that are not learnt but asked: their number, a share of all (0.05), or sources of their own"
    )
    context: int = said(512, ge=2, unit="tokens", text="the longest text")


class Seq2seqTraining(Training):
    """How it is learnt: as in arXiv 1706.03762, sections 5.2 to 5.4."""

    steps: int | None = said(100_000, ge=1, unit="updates", text="of the weights; null: by epochs")
    tokens: int = said(25_000, ge=2, unit="tokens", text="of a batch's longer side, padding counted")
    rate: float | None = said(None, gt=0, text="the highest; left out: 1 / sqrt(width * warmup), as in eq. 3")
    schedule: Literal["constant", "linear", "cosine", "inverse-sqrt", "wsd", "wsd-linear", "slanted"] = said(
        "inverse-sqrt", text="how the rate goes over the steps"
    )
    warmup: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = said(
        4000, text="until the rate is highest: a number of steps, or a share of them (0.05)"
    )
    betas: tuple[float, float] = said((0.9, 0.98), text="how much AdamW remembers of gradients and of their squares")
    epsilon: float = said(1e-9, gt=0, text="what keeps AdamW from dividing by nothing")
    clip: float | None = said(None, gt=0, text="the longest gradient, as a norm; null: any")
    smoothing: float = said(0.1, ge=0, lt=1, text="of the labels: how much belief goes to all others")


class Seq2seq(Recipe):
    """Learn to turn one text into another from pairs, with the Transformer of 2017.

    The defaults are the base model of arXiv 1706.03762, table 3, which wants a GPU and real data.
    """

    recipe: Literal["seq2seq"] = said(text="seq2seq")
    data: Seq2seqData = said(text="pairs to learn from")
    training: Seq2seqTraining = said(Seq2seqTraining, text="how it is learnt")
    vocabulary: int = said(32_000, ge=259, le=10_000_000, unit="tokens", text="at most, bytes and marks among them")
    layers: int = said(6, ge=1, text="of the encoder, and of the decoder")
    width: int = said(512, ge=2, text="of the stream")
    heads: int = said(8, ge=1, text="of attention")
    feedforward: int = said(2048, ge=1, text="width inside a block")
    dropout: float = said(0.1, ge=0, lt=1, text="of the tokens and of what each part adds")
    average: int = said(5, ge=1, text="snapshots of the weights whose mean is kept, a hundredth of the steps apart")
    beams: int = said(4, ge=1, text="of the search for an answer")
    length_penalty: float = said(0.6, text="above 0 longer answers gain")


class Classify(Continued):
    """Learn which label a text has, with an encoder or a decoder."""

    recipe: Literal["classify"] = said(text="classify")
    model: str = said("minilm", text="a name, a file, a folder or an earlier run")
    adapter: Adapter | None = said(None, text="what is trained beside the frozen model; null: the whole model")


class Kind(NamedTuple):
    config: type[Recipe]
    module: str
    summary: str

    def prepare(self, *given: Any) -> Any:
        """See the module's own ``prepare``."""
        return import_module(f"hornbook.recipes.{self.module}").prepare(*given)


RECIPES: dict[str, Kind] = {
    "sft": Kind(Sft, "sft", "fine-tune a chat model on conversations or instructions"),
    "pretrain": Kind(Pretrain, "pretrain", "train on plain text, from nothing or further"),
    "mlm": Kind(Mlm, "mlm", "train an encoder as BERT was: hidden tokens, next sentence"),
    "span": Kind(Span, "span", "train an encoder-decoder as T5 was: stretches cut out"),
    "seq2seq": Kind(Seq2seq, "seq2seq", "learn to turn one text into another from pairs"),
    "classify": Kind(Classify, "classify", "learn which label a text has"),
}

NEW_RATE, FULL_RATE, LOW_RANK_RATE, VECTOR_RATE = 1e-3, 2e-5, 2e-4, 5e-3


def settled(recipe: Recipe) -> Recipe:
    """``recipe`` with the learning rate that is usual for what it trains, where it says none: new weights learn fast, those
    of a model slowly, a low-rank adapter ten times as fast, the few vectors of other adapters faster still."""
    if recipe.training.rate is not None:
        return recipe
    adapter = getattr(recipe, "adapter", None)
    if isinstance(recipe, Seq2seq):
        warmup = recipe.training.warmup
        rate = (recipe.width * (warmup if isinstance(warmup, int) and warmup else 4000)) ** -0.5
    elif getattr(recipe, "model", None) is None:
        rate = NEW_RATE
    elif adapter is None:
        rate = FULL_RATE
    else:
        rate = LOW_RANK_RATE if isinstance(adapter, LowRank) else VECTOR_RATE
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"rate": rate})})
