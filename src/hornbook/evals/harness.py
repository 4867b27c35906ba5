"""The other way round: lm-evaluation-harness runs its tasks on our engine.

    python -m hornbook.evals.harness run --model hornbook --model_args pretrained=smollm2:135m --tasks arc_easy

    import hornbook.evals.harness                      # "hornbook" is a model of the harness from here on
    lm_eval.simple_evaluate(model="hornbook", model_args={"pretrained": "smollm2:135m"}, tasks=["arc_easy"])
    lm_eval.simple_evaluate(model=hornbook.evals.harness.HornbookLM(llm=mine), tasks=["arc_easy"])

model_args: pretrained (all that ``hornbook.load`` takes), device, dtype, adapter, draft, max_length. Batch sizes are the
engine's own business and are not looked at.

Texts are tokenised as the harness' transformers models tokenise them: its prompts are plain strings, a rendered chat too, so
that special tokens which are spelled out in a text are special here, other than anywhere else in Hornbook. One difference is
meant: a whole text (loglikelihood_rolling) begins with one begin token, and not with a second one that is judged after it.

This is the one file that imports the harness. It needs the extra: pip install "hornbook[lm-eval]".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from hornbook.engine.pairing import begin_of, related, whole_of, windows
from hornbook.errors import HornbookError, UsageError
from hornbook.llm import LocalLLM, load
from hornbook.types import Message, SamplingParams, Score

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import model_registry
    from tqdm import tqdm
except ImportError as error:
    raise UsageError(
        f"lm-evaluation-harness is not to be had here: {error}", 'Install it: pip install "hornbook[lm-eval]".'
    ) from error

WAVE = 1024  # texts of which the engine knows at a time, after which the progress moves
USUAL_TOKENS = 256  # the harness' own limit where a task says nothing
T = TypeVar("T")

log = logging.getLogger(__name__)

# What tasks ask for, by the names of transformers; "until" and the limits are read by hand.
_SAMPLING = {field.name for field in fields(SamplingParams)} & {
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed",
}  # fmt: skip
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is there counts


class HornbookLM(TemplateLM):  # type: ignore[misc]
    """A model of Hornbook as the harness sees one. ``llm``: one that is loaded already, in the place of ``pretrained``."""

    def __init__(
        self,
        pretrained: str = "smollm2:135m",
        *,
        llm: LocalLLM | None = None,
        device: str | None = None,
        dtype: str = "auto",
        adapter: str | None = None,
        draft: str = "auto",
        max_length: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        # The harness says cuda:0 where nobody has said anything, and its own models take the processor where there is none.
        place = "auto" if device in (None, "cuda:0") else device
        loaded = llm or load(pretrained, device=place, dtype=dtype, adapter=adapter, draft=draft)
        if not isinstance(loaded, LocalLLM):
            raise UsageError(
                f"{pretrained} is no decoder that runs here", "The harness has models of its own for servers."
            )
        self.llm = loaded
        self.max_length = min(max_length or loaded.context_length, loaded.context_length)

    # --- what the harness asks about

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        end = self.llm.tokenizer.eos_id
        return begin_of(self.llm.tokenizer)[0] if end is None else end

    @property
    def prefix_token_id(self) -> int:
        """What an empty context stands for."""
        return begin_of(self.llm.tokenizer)[0]

    @property
    def tokenizer_name(self) -> str:
        """Tells the harness' caches of prompts apart."""
        return self.llm.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the model's template. Raises UsageError where it is asked for and there is none."""
        return str(self._template().source) if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text; without ``add_generation_prompt`` its last turn is left open, to be gone on with."""
        turns = [Message("user" if turn["role"] == "human" else turn["role"], turn["content"]) for turn in chat_history]  # type: ignore[arg-type]
        text: str = self._template().render(turns, reply=add_generation_prompt).text
        if add_generation_prompt:
            return text
        said = turns[-1].content.strip()
        return text[: text.rindex(said) + len(said)]

    def _template(self) -> Any:
        if self.llm.chat_template is None:
            raise UsageError(f"{self.llm.name} has no chat template", "Leave --apply_chat_template out.")
        return self.llm.chat_template

    def get_model_info(self) -> dict[str, Any]:
        """What the harness keeps with its results."""
        return {"hornbook_model": self.llm.name, "hornbook_runs_on": self.llm.runs_on}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text; no second begin token before one that is spelled out."""
        tokenizer = self.llm.tokenizer
        if add_special_tokens is None:
            begin = None if tokenizer.bos_id is None else tokenizer.token(tokenizer.bos_id)
            add_special_tokens = begin is None or not string.startswith(begin)
        return list(tokenizer.encode(string, add_special=add_special_tokens, parse_special=True))

    # --- its three verbs

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **others: Any,
    ) -> list[tuple[float, bool]]:
        cut = []
        for (_, text), before, after in requests:
            if not after:
                raise UsageError(
                    f"{text!r:.60} is no token of its own after its context", "Separate the two by a space."
                )
            ids = [*before, *after][-(self.max_length + 1) :]
            if len(ids) - len(after) < 1:
                raise UsageError(
                    f"a continuation has {len(after):,} tokens; the model's context holds {self.max_length:,}",
                    "Use a model with a longer one.",
                )
            cut.append((ids, len(ids) - len(after)))
        shortened = sum(len(ids) < len(r[1]) + len(r[2]) for (ids, _), r in zip(cut, requests, strict=True))
        if shortened:
            log.warning("%d of %d contexts are cut at their beginning to fit the model", shortened, len(requests))
        scores = self._scored(cut, "Running loglikelihood requests", disable_tqdm)
        answers = [(score.logprob, score.is_greedy) for score in scores]
        for (asked, *_), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", asked, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """How likely whole texts are."""
        begin = begin_of(self.llm.tokenizer)
        texts = [request.args[0] for request in requests]
        cut = [windows(begin, self.tok_encode(text, add_special_tokens=False), self.max_length) for text in texts]
        several = [window for one in cut for window in one]
        scores = iter(self._scored(several, "Running rolling loglikelihoods", disable_tqdm))
        found = [whole_of([next(scores) for _ in one]).logprob for one in cut]
        for text, value in zip(texts, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), value)
        return found

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes, up to the first text that a task stops at. Raises UsageError for a way of sampling that is
        not the engine's."""
        asked = [(request.args[0], request.args[1]) for request in requests]
        params = [_sampling(options) for _, options in asked]
        prompts = []
        for (context, _), one in zip(asked, params, strict=True):
            room = self.max_length - one.max_tokens
            if room < 1:
                raise UsageError(
                    f"{one.max_tokens:,} tokens are to be written; the model's context holds {self.max_length:,}",
                    "Set max_gen_toks lower, or use a model with a longer context.",
                )
            prompts.append((self.tok_encode(context) or [self.prefix_token_id])[-room:])
        found = [""] * len(asked)
        order = sorted(range(len(asked)), key=lambda place: (repr(params[place]), prompts[place]))
        for wave in _waves(order, WAVE, "Running generate_until requests", disable_tqdm):
            for sampling in dict.fromkeys(params[place] for place in wave):
                places = [place for place in wave if params[place] == sampling]
                said = self.llm.generate([prompts[place] for place in places], sampling)
                for place, completion in zip(places, said, strict=True):
                    found[place] = completion.text
                    self.cache_hook.add_partial("generate_until", asked[place], completion.text)
        return found

    def _scored(self, asked: Sequence[tuple[list[int], int]], what: str, quiet: bool) -> list[Score]:
        """Contexts that begin alike go together, whatever the order they come in."""
        found = [Score(0.0, True, 0)] * len(asked)
        order = [place for family in related(asked) for place in family]
        for wave in _waves(order, WAVE, what, quiet):
            for place, score in zip(wave, self.llm.score_ids([asked[place] for place in wave]), strict=True):
                found[place] = score
        return found


def _sampling(options: Mapping[str, Any]) -> SamplingParams:
    """From a task's generation_kwargs. Without do_sample the likeliest token is taken, whatever else they say."""
    given = dict(options)
    until = given.pop("until", None) or []
    limits = [given.pop(name) for name in _LIMITS if given.get(name) is not None]
    sample = bool(given.pop("do_sample", float(given.get("temperature") or 0) > 0))
    unknown = set(given) - _SAMPLING - set(_LIMITS)
    if unknown:
        raise UsageError(
            f"the task asks for {', '.join(sorted(unknown))}, which is no way of sampling here",
            f"There are {', '.join(sorted(_SAMPLING))}.",
        )
    drawn = {name: value for name, value in given.items() if name in _SAMPLING and value is not None}
    drawn["temperature"] = float(drawn.get("temperature", 1.0)) if sample else 0.0
    stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    return SamplingParams(max_tokens=int(limits[0]) if limits else USUAL_TOKENS, stop=stop, logprobs=False, **drawn)


def _waves(order: Sequence[T], size: int, what: str, quiet: bool) -> Iterator[Sequence[T]]:
    with tqdm(total=len(order), desc=what, disable=quiet) as bar:
        for begin in range(0, len(order), size):
            wave = order[begin : begin + size]
            yield wave
            bar.update(len(wave))


# By name, so that the harness has one class of it, whether this file is imported or run.
model_registry.register("hornbook", target="hornbook.evals.harness:HornbookLM")


def main() -> None:
    """The harness' own command line, which knows the model ``hornbook``."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except HornbookError as error:
        raise SystemExit(f"{error.what}\n{error.remedy}") from error


if __name__ == "__main__":
    main()
