"""What every recipe can say, typed: one YAML file becomes one of these, and a key that is not here is refused.

    recipe: sft            which recipe: hornbook.recipes.kinds.RECIPES
    model: smollm2:135m    data: Data        training: Training        adapter: hornbook.recipes.adapters        rope: Rope

Each field has a description and, where it measures something, a unit: docs/recipes.md and ``hornbook train --example``
are made of them. No tensors are known here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Shape = Literal["auto", "text", "alpaca", "sharegpt", "messages", "prompt-completion", "preference", "pair", "labelled"]
TooLong = Literal["split", "truncate", "drop", "refuse"]


def said(default: Any = ..., *, text: str, unit: str = "", **limits: Any) -> Any:
    """A field with what it means, and in which unit it is counted."""
    if unit:
        limits["json_schema_extra"] = {"unit": unit}
    if callable(default):
        return Field(default_factory=default, description=text, **limits)
    return Field(default, description=text, **limits)


class Strict(BaseModel):
    """A part of a recipe: fixed once made, and it takes no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Strict):
    """Files that hold examples."""

    path: str = said(text="a file, a folder or a pattern (*.jsonl); JSONL, CSV, Parquet or text, plain or .gz, .zst")
    shape: Shape = said("auto", text="how an example is written; auto: as its first one says")
    fields: dict[str, str] = said(dict, text="their name of a column: the name that the shape has for it")
    weight: float = said(
        1.0,
        gt=0,
        text="its share of the examples, where the sources' weights differ; `ended` says when the mix ends",
    )
    split: Literal["file", "blank-line", "line"] = said("file", text="how a file of plain text is cut into examples")


class Data(Strict):
    """What is learnt from, and what is held out."""

    train: list[Source] = said(min_length=1, text="the sources to learn from")
    validation: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] | list[Source] = said(
        0.05,
        text="what is held out and never learnt: a share of the examples (0.05), a number of them (20), 0 for none, or "
        "sources of their own",
    )
    ended: Literal["stop", "repeat", "drop"] = said(
        "stop",
        text="when a source of a mix has ended: the mix ends, it begins anew until all were read once, or the others go on",
    )
    malformed: Literal["stop", "skip"] = said("stop", text="a line that cannot be read ends the work, or is counted")
    context: int = said(1024, ge=2, unit="tokens", text="the longest row; no more than the model reads")
    too_long: TooLong | None = said(
        None,
        text="an example beyond the context; left out: split for plain text, truncate for what is asked and answered",
    )
    packed: bool = said(
        True, text="rows are filled with several examples, each of which sees only itself; false: padded"
    )


class Training(Strict):
    """How it is learnt."""

    epochs: float = said(1.0, gt=0, text="how often all examples are gone through")
    steps: int | None = said(None, ge=1, unit="updates", text="of the weights, in place of epochs")
    tokens: int = said(2048, ge=2, unit="tokens", text="that go through the model at once, with padding")
    accumulate: int = said(1, ge=1, unit="passes", text="of so many tokens that make one update")
    optimizer: Literal["adamw", "adamw8bit", "adafactor", "muon"] = said("adamw", text="the rule of the updates")
    rate: float | None = said(
        None, gt=0, text="the highest learning rate; left out: by what is trained (docs/train.md has the table)"
    )
    schedule: Literal["constant", "linear", "cosine", "inverse-sqrt", "wsd", "wsd-linear", "slanted"] = said(
        "cosine", text="how the rate goes over the steps"
    )
    warmup: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = said(
        0.05, text="until the rate is highest: a share of the steps (0.05), or their number (100)"
    )
    end: float = said(0.0, ge=0, le=1, text="the rate of the last step, as a share of the highest")
    betas: tuple[float, float] = said((0.9, 0.999), text="how much AdamW remembers of gradients and of their squares")
    epsilon: float = said(1e-8, gt=0, text="what keeps AdamW from dividing by nothing")
    weight_decay: float = said(0.0, ge=0, text="of matrices; norms, biases and embeddings do not decay")
    clip: float | None = said(1.0, gt=0, text="the longest gradient, as a norm; null: any")
    precision: Literal["auto", "float32", "bfloat16", "bfloat16-autocast", "float16"] = said(
        "auto", text="of the arithmetic; auto: float32 on a CPU, bfloat16 on a GPU"
    )
    activation_checkpointing: bool = said(
        False, text="compute the blocks' inner states again on the way back: less memory, a third more time"
    )
    smoothing: float = said(0.0, ge=0, lt=1, text="of the labels: how much belief goes to all others")
    z_loss: float = said(0.0, ge=0, text="weight of the squared log of the softmax's sum, which keeps logits small")
    ema: float | None = said(
        None, gt=0, lt=1, text="keep the running mean of the weights, with this much memory: 0.999"
    )
    seed: int = said(0, ge=0, lt=2**63, text="of the order, of new weights, of dropout and of what is held out")
    validate_every: int | None = said(
        None, ge=1, unit="updates", text="between measures of the held-out loss; left out: ten in a run"
    )
    save_every: int | None = said(None, ge=1, unit="updates", text="between checkpoints; left out: ten in a run")
    keep: int = said(2, ge=1, unit="checkpoints", text="that are kept, the newest")
    tensorboard: bool = said(False, text="TensorBoard's event files, too, in events/ (wants the package tensorboard)")
    compile: bool = said(False, text="let torch compile the model: minutes at first, faster steps on a GPU")
    device: str = said("auto", text="auto, cpu, cuda, cuda:1, mps")
    tensor_parallel: int = said(
        1,
        ge=1,
        unit="processes",
        text="that share the heads of each layer, of those that torchrun starts (docs/distributed.md)",
    )


class Rope(Strict):
    """Read further than the model was trained for, by other frequencies of its rotary positions."""

    kind: Literal["linear", "ntk", "yarn"] = said("yarn", text="arXiv 2306.15595; a larger base; arXiv 2309.00071")
    factor: float = said(gt=1, le=1024, text="how many times further")


class Samples(Strict):
    """Held-out questions that the model answers before and after."""

    prompts: int = said(3, ge=0, text="how many of the held-out examples are asked")
    tokens: int = said(60, ge=1, unit="tokens", text="the most that an answer has")
    ask: list[str] = said(list, text="questions of your own, asked as well")


class Evaluation(Strict):
    """What the result is asked when it is made, and whether it has to be as good as another model."""

    tasks: list[str] = said(min_length=1, text="names of tasks, or files of your own (docs/evals.md)")
    data: list[str] = said(list, text="folders with their questions, looked through before HORNBOOK_DATA")
    limit: int | None = said(None, ge=1, unit="items", text="of each task that are asked; left out: all")
    shots: int | None = said(None, ge=0, text="solved examples before each question; left out: the task's own")
    chat: bool | None = said(None, text="with the model's chat template, or not; left out: the task's own")
    judge: str | None = said(None, text="the model that judges answers, where a task wants one")
    baseline: str | None = said(
        "base",
        text="what it is compared with: base, the model that it was made of; another model; the folder of an earlier "
        "evaluation; null: nothing",
    )
    fail_if_worse: bool = said(False, text="the work fails where a score is below the baseline's beyond chance")

    @model_validator(mode="after")
    def _against(self) -> Evaluation:
        if self.fail_if_worse and self.baseline is None:
            raise ValueError("fail_if_worse has nothing to compare with: name a baseline")
        return self


class Recipe(Strict):
    """What all recipes share."""

    recipe: str = said(text="which recipe this is")
    data: Data = said(text="what is learnt from")
    training: Training = said(Training, text="how it is learnt")
    samples: Samples = said(Samples, text="what is asked before and after")

    @property
    def target(self) -> str:
        """What the recipe starts from, for a person to read."""
        return str(getattr(self, "model", None) or "a new model")


class Continued(Recipe):
    """A recipe that takes a model which there is."""

    model: str = said(text="a name, a file, a folder or an earlier run")
    rope: Rope | None = said(None, text="stretch the model's context first")
    shifted: int | None = said(
        None,
        ge=2,
        multiple_of=2,
        unit="tokens",
        text="attend in groups of so many while training, half of the heads in "
        "groups that stand half a group further (LongLoRA, arXiv 2309.12307)",
    )
    train_also: list[Literal["embeddings", "norms"]] = said(
        list, text="parts of the model that are trained beside the adapter"
    )

    @model_validator(mode="after")
    def _beside(self) -> Continued:
        if self.train_also and getattr(self, "adapter", None) is None:
            raise ValueError("train_also goes with an adapter: without one, everything is trained")
        return self
