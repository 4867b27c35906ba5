"""Carry a chain out: each stage in a folder of its name, its model that of an earlier stage where it says so.

FOLDER/words/   a run, as `hornbook train` makes it
       small/   model.gguf and outcome.json
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hornbook.errors import StoreError, UsageError
from hornbook.recipes import gate
from hornbook.recipes.config import Evaluation, Recipe
from hornbook.recipes.kinds import settled
from hornbook.recipes.preview import Preview
from hornbook.recipes.run import Report, run
from hornbook.recipes.stages import Chat, Evaluate, Life, Merge, Quantise
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.checkpoint.loading import Checkpoint
    from hornbook.data.encode import Encoder

NAME = "outcome.json"


@dataclass(frozen=True, slots=True)
class Done:
    """What a stage has made: ``result`` is its model or its adapter; ``figures`` and ``said``: for a person."""

    name: str
    recipe: str
    result: Path
    seconds: float
    figures: Mapping[str, float]
    said: tuple[tuple[str, str], ...] = ()  # (question, answer)
    anew: bool = True  # in this call

    def data(self) -> dict[str, Any]:
        """For ``--json``."""
        said = [{"prompt": asked, "reply": reply} for asked, reply in self.said]
        seconds = round(self.seconds, 1)
        return {
            **{"stage": self.name, "recipe": self.recipe, "result": str(self.result), "seconds": seconds},
            **{"figures": dict(self.figures), "replies": said},
        }


def live(
    life: Life,
    folder: Path,
    *,
    settings: Settings,
    show: Callable[[Preview], object],
    report: Report,
    say: Callable[[str], object],
    tell: Callable[[Done], object],
    force: bool = False,
) -> list[Done]:
    """Every stage in its order; ``tell`` hears of each as it is done. Raises what the stages raise, and UsageError where a
    stage that is done was made of one that now is another."""
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UsageError(f"a chain of recipes is not done by {count} processes", "Give torchrun one recipe at a time.")
    done: dict[str, Done] = {}
    for name, stage in life.stages.items():
        place = folder / name
        used = [done[word] for word in (_said(stage, "model"), _said(stage, "adapter")) if word in done]
        stage = stage.model_copy(update={key: str(done[word].result) for key, word in _references(stage, done)})
        if any(one.anew for one in used) and (place / NAME).exists():
            raise UsageError(
                f"{place} was made of an earlier {used[0].name}, which has been made anew", f"Remove {place}."
            )
        say(f"\n{name}")
        if isinstance(stage, Recipe):
            known = (place / NAME).exists()
            outcome = run(settled(stage), place, settings=settings, show=show, report=report, say=say, force=force)
            assert outcome is not None, "only a dry run has no outcome"
            figures = {"loss before": outcome.before, "loss after": outcome.after, **outcome.scores}
            samples = tuple((asked, after) for asked, _, after in outcome.samples if after is not None)
            one = Done(
                name,
                stage.recipe,
                outcome.result,
                outcome.seconds,
                {key: value for key, value in figures.items() if value is not None},
                samples,
                anew=not known,
            )
        else:
            one = _small(name, stage, place, settings, report, say)
        done[name] = one
        tell(one)
    return list(done.values())


def _said(stage: Any, key: str) -> str | None:
    value = getattr(stage, key, None)
    return value if isinstance(value, str) else None


def _references(stage: Any, done: Mapping[str, Done]) -> list[tuple[str, str]]:
    """(field, stage that it names)."""
    return [(key, word) for key in ("model", "adapter") if (word := _said(stage, key)) is not None and word in done]


# -------------------------------------------------------------------------------------------- stages that train nothing


def _small(
    name: str,
    stage: Merge | Quantise | Evaluate | Chat,
    folder: Path,
    settings: Settings,
    report: Report,
    say: Callable[[str], object],
) -> Done:
    """Do it, or tell what came of it when it was done."""
    asked = stage.model_dump(mode="json")
    try:
        known = json.loads((folder / NAME).read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    if _same(stage, known.get("asked")):
        said = tuple((row[0], row[1]) for row in known["said"])
        return Done(name, stage.recipe, folder / known["result"], known["seconds"], known["figures"], said, anew=False)
    began = time.monotonic()
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        result, figures, replies = _do(stage, folder, settings, report, say)
        made = Done(name, stage.recipe, folder / result, time.monotonic() - began, figures, tuple(replies))
        row = {"asked": asked, "result": result, "seconds": made.seconds, "figures": dict(figures), "said": replies}
        (folder / NAME).write_text(json.dumps(row, ensure_ascii=False, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}", "Make room on the disk.") from error
    return made


def _same(stage: Merge | Quantise | Evaluate | Chat, before: Any) -> bool:
    """Whether that is what was done; settings that a later Hornbook has added are those that they are unsaid."""
    try:
        return type(stage).model_validate(before) == stage
    except ValidationError:
        return False


def _do(
    stage: Merge | Quantise | Evaluate | Chat,
    folder: Path,
    settings: Settings,
    report: Report,
    say: Callable[[str], object],
) -> tuple[str, dict[str, float], list[tuple[str, str]]]:
    """-> (name of the result in ``folder``, figures, questions and answers)."""
    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.lora import adapter_folder, stretch_for
    from hornbook.checkpoint.store import Store

    path = Store(settings).ensure(stage.model).path
    match stage:
        case Merge():
            stretch = stretch_for(adapter_folder(stage.adapter))
            return _merge(load(path, dtype="float32", stretch=stretch), stage, folder)
        case Quantise():
            from hornbook.checkpoint.exporting import export

            scores: dict[str, float] = {}

            def check(copy: Path, stage: Quantise = stage) -> None:
                if stage.evaluate is not None:
                    scores.update(_asked(stage, stage.evaluate, copy, folder, settings, report, say))

            made = export(
                load(path, dtype="float32", device="cpu"),
                folder / "model.gguf",
                to="gguf",
                quantise=stage.type,
                max_kl=stage.max_kl,
                min_top1=stage.min_top1,
                check=check,
            )
            figures = {"bytes": float(made.size), "top-1": made.drift.top1, "KL": made.drift.kl, **scores}
            return "model.gguf", figures, []
        case Evaluate():
            loss = measured(load(path, dtype="float32"), stage)
            return "", {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}, []
        case Chat():
            from hornbook.llm import LocalLLM
            from hornbook.llm import load as open_model
            from hornbook.types import Message, SamplingParams

            with open_model(path, settings=settings) as model:
                if not isinstance(model, LocalLLM):
                    raise UsageError(f"{stage.model} writes no text by itself", "Ask a decoder.")
                params = SamplingParams(max_tokens=stage.tokens)
                replies = [(text, model.chat([Message("user", text)], sampling=params).content) for text in stage.ask]
            return "", {}, replies


def _asked(
    stage: Quantise,
    wanted: Evaluation,
    copy: Path,
    folder: Path,
    settings: Settings,
    report: Report,
    say: Callable[[str], object],
) -> dict[str, float]:
    """What the copy scores. Raises GateFailed where it may not be worse and is."""
    from hornbook.evals.gate import Candidate

    asked = gate.made(wanted, settings)
    after = Candidate(str(copy), name=f"{stage.model} in {stage.type}")
    verdict = gate.weighed(asked, wanted, after, stage.model, settings, report, say)
    gate.page(verdict, folder / gate.PAGE)
    if wanted.fail_if_worse:
        verdict.check(f"Take a type of more bits; {folder / gate.PAGE} shows what was lost.")
    return verdict.scores()


def _merge(checkpoint: Checkpoint, stage: Merge, folder: Path) -> tuple[str, dict[str, float], list[tuple[str, str]]]:
    from hornbook import adapt
    from hornbook.checkpoint.saving import save

    attached = adapt.load(checkpoint.model, stage.adapter)
    attached.merge(forever=True)
    save(checkpoint, folder / "model")
    return "model", {}, []


def measured(checkpoint: Checkpoint, stage: Evaluate) -> float:
    """The mean loss of what the data teaches: all tokens of texts, of conversations what the assistant says."""
    from hornbook.data import encode
    from hornbook.data.example import Conversation, Example
    from hornbook.data.read import Source, read
    from hornbook.recipes.templates import template_of
    from hornbook.train import losses
    from hornbook.train.batch import IGNORED, pad
    from hornbook.train.batch import Batch as Rows
    from hornbook.train.evaluate import evaluate

    sources = [Source(s.path, s.shape, s.fields, s.weight, s.split) for s in stage.data]
    examples: list[Example] = list(read(sources))
    context = min(stage.context, checkpoint.config.context_length)
    coder: Encoder
    if isinstance(examples[0], Conversation):
        coder = encode.chat(template_of(None, checkpoint), context)
    else:
        coder = encode.causal(checkpoint.tokenizer, context)
    rows = list(coder.many(examples))
    coder.account.check()
    batches = []
    for at in range(0, len(rows), 8):
        some = rows[at : at + 8]
        ids, learnt = pad([row.ids.tolist() for row in some], 0), pad([row.learnt.tolist() for row in some], 0).bool()
        real = pad([[1] * len(row.ids) for row in some], 0).bool()
        batches.append(Rows(ids, ids.masked_fill(~learnt, IGNORED), mask=real))
    return evaluate(checkpoint.model, batches, losses.causal_lm()).loss
