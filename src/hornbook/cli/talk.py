"""``hornbook run`` and ``hornbook chat``: one prompt, or a conversation. What the model says goes to stdout, the rest to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hornbook.cli import console
from hornbook.cli.models import fetch
from hornbook.errors import UsageError
from hornbook.settings import Settings
from hornbook.types import Message, SamplingParams, Token

if TYPE_CHECKING:
    from hornbook.checkpoint.created import Created, CreatedModels
    from hornbook.engine.created import CreatedLLM
    from hornbook.engine.remote import RemoteLLM
    from hornbook.engine.seq2seq import Seq2Seq
    from hornbook.llm import LocalLLM

SystemOption = Annotated[str, typer.Option(help="What the model is told before the conversation.")]
MaxTokens = Annotated[int | None, typer.Option(help="The most tokens that an answer may have. Default: 512.")]
RunTokens = Annotated[
    int | None,
    typer.Option(
        help="The most tokens that the answer may have. Default: 512; of a translator or the like, as its files say."
    ),
]
Temperature = Annotated[
    float | None, typer.Option(help="0: always the likeliest token. Higher: more varied. Default: run 0, chat 0.4.")
]
TopP = Annotated[
    float | None,
    typer.Option(help="Draw only from the likeliest tokens of this total probability. Default: run 1, chat 0.95."),
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Stretch = Annotated[
    str | None,
    typer.Option(help="Read further than the model was trained for: linear, ntk, dynamic or yarn, as in yarn:4."),
]
Draft = Annotated[
    str, typer.Option(help="What guesses ahead: auto, lookup, none, or a small model with the same tokenizer.")
]
Adapter = Annotated[str | None, typer.Option(help="The folder of an adapter, or the name of a run that trained one.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never open a socket.")]


def run(
    model: Annotated[str, typer.Argument(help="A short name, a source, a GGUF file or a folder.", show_default=False)],
    prompt: Annotated[str | None, typer.Argument(help="The prompt. What is piped in is appended to it.")] = None,
    system: SystemOption = "",
    max_tokens: RunTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    device: Device = "auto",
    stretch: Stretch = None,
    draft: Draft = "auto",
    adapter: Adapter = None,
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer and its figures as JSON.")] = False,
) -> None:
    """Give a model one prompt, from the line or from a pipe, and print its answer.

    A created model's PARAMETERs hold where no option says otherwise.
    """
    from hornbook.engine.created import CreatedLLM
    from hornbook.llm import LocalLLM, RemoteLLM

    text = _prompt(prompt)
    flags = _given(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    if raw and system:
        raise UsageError(
            "--raw gives the model the text as it is: it has no place for --system", "Leave one of them out."
        )
    settings = Settings.load(offline=offline or None)
    with loaded(model, settings, device, stretch, draft, adapter) as llm:
        if not isinstance(llm, LocalLLM | RemoteLLM | CreatedLLM):
            useless = {
                "--system": system,
                "--raw": raw,
                "--temperature": temperature,
                "--top-p": top_p not in (None, 1.0),
                "--seed": seed is not None,
            }
            if refused := ", ".join(option for option, said in useless.items() if said):
                raise UsageError(
                    f"{llm.name} reads one text and writes the likeliest other, with no template and no draw: "
                    f"it has no use for {refused}",
                    f"Leave out {refused}.",
                )
            _write(llm, text, max_tokens, as_json)
            return
        sampling = _drawn(llm, flags, {"max_tokens": 512})
        messages = [*([Message("system", system)] if system else []), Message("user", text)]
        started = time.perf_counter()
        tokens = list(
            speak(llm.stream(text, sampling) if raw else llm.stream_chat(messages, sampling=sampling), silent=as_json)
        )
        seconds = time.perf_counter() - started
        if as_json:
            written = "".join(token.text for token in tokens)
            count = sum(token.id is not None for token in tokens) or llm.count_tokens(written)
            given = llm.render(messages) if not raw else text
            console.print_json(
                {
                    "model": llm.name,
                    "text": written,
                    "finish_reason": tokens[-1].finish_reason,
                    "usage": {
                        "prompt_tokens": _count(llm, given),
                        "completion_tokens": count,
                    },
                    "seconds": round(seconds, 3),
                }
            )
        elif tokens[-1].finish_reason == "length":
            console.say(f"  ({why_cut(tokens, sampling, llm)})")


def chat(
    model: Annotated[str | None, typer.Argument(help="Default: the setting HORNBOOK_MODEL.")] = None,
    system: SystemOption = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    device: Device = "auto",
    stretch: Stretch = None,
    draft: Draft = "auto",
    adapter: Adapter = None,
    offline: Offline = False,
) -> None:
    """Talk with a model. /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.

    Where stdin is a pipe, each line is one turn. A created model's PARAMETERs hold where no option says otherwise.
    """
    from hornbook.cli.conversation import Conversation

    flags = _given(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    settings = Settings.load(offline=offline or None)
    with opened(model or settings.model, settings, device, stretch, draft, adapter) as llm:
        sampling = _drawn(llm, flags, {"max_tokens": 512, "temperature": 0.4, "top_p": 0.95})
        Conversation(llm, sampling, system=system, home=settings.home).hold()


# ------------------------------------------------------------------------------------------------------------- details


@contextmanager
def opened(
    model: str,
    settings: Settings,
    device: str,
    stretch: str | None = None,
    draft: str = "auto",
    adapter: str | None = None,
) -> Iterator[LocalLLM | RemoteLLM | CreatedLLM]:
    """The language model, closed at the end. Raises UsageError for a model that cannot hold a conversation."""
    from hornbook.engine.created import CreatedLLM
    from hornbook.llm import LocalLLM, RemoteLLM

    with loaded(model, settings, device, stretch, draft, adapter) as llm:
        if not isinstance(
            llm, LocalLLM | RemoteLLM | CreatedLLM
        ):  # asked so, because Seq2Seq would bring torch with it
            raise UsageError(
                f"{llm.name} reads one text and writes another: it holds no conversation",
                f'Give it one text: hornbook run {model} "..."',
            )
        yield llm


@contextmanager
def loaded(
    model: str,
    settings: Settings,
    device: str,
    stretch: str | None = None,
    draft: str = "auto",
    adapter: str | None = None,
) -> Iterator[LocalLLM | RemoteLLM | CreatedLLM | Seq2Seq]:
    """The model, closed at the end. Raises UsageError for one that cannot write."""
    from hornbook.checkpoint.created import CreatedModels
    from hornbook.llm import LocalLLM, RemoteLLM, load

    created = CreatedModels(settings)
    made = created.find(model)
    if made is not None and adapter is not None:
        raise UsageError(
            f"{model} was created with a Modelfile, which says its adapter", "Name its base, or create it with ADAPTER."
        )
    if made is not None:
        with _created(made, created, settings, device, stretch, draft) as own:
            yield own
        return
    fetch(settings, model)
    llm = load(model, device=device, stretch=stretch, draft=draft, adapter=adapter, settings=settings)
    with closing(llm):
        if not isinstance(llm, LocalLLM | RemoteLLM) and hasattr(llm, "embed"):
            raise UsageError(
                f"{llm.name} is an embedding model: it finds passages and does not write",
                "hornbook list shows the models.",
            )
        yield llm


@contextmanager
def _created(
    made: Created, created: CreatedModels, settings: Settings, device: str, stretch: str | None, draft: str
) -> Iterator[CreatedLLM]:
    """A created model, closed at the end. Raises ModelFileError where its weights are gone or others."""
    from hornbook.checkpoint.meaning import Meaning
    from hornbook.engine.created import CreatedLLM
    from hornbook.llm import LocalLLM, load

    meaning = Meaning.of(made, created)
    base = load(meaning.entry.path, device=device, stretch=stretch, draft=draft, settings=settings)
    with closing(base):
        if not isinstance(base, LocalLLM):
            raise UsageError(
                f"{made.name} is made from {made.base.source}, which is no model that goes on with a text",
                "Create it from a language model.",
            )
        yield CreatedLLM(base, meaning)


def _given(**flags: float | None) -> dict[str, Any]:
    """The options that were given, checked before any work."""
    given = {name: value for name, value in flags.items() if value is not None}
    sampling_of(**given)
    return given


def _drawn(llm: LocalLLM | RemoteLLM | CreatedLLM, flags: dict[str, Any], usual: dict[str, Any]) -> SamplingParams:
    """What was given, else what a created model says, else what is usual."""
    return sampling_of(**{**usual, **getattr(llm, "drawn", {}), **flags})


def _count(llm: LocalLLM | RemoteLLM | CreatedLLM, prompt: str | list[int]) -> int:
    """Tokens of a prompt, with the special ones where the model runs here."""
    if not isinstance(prompt, str):
        return len(prompt)
    tokenizer = getattr(llm, "tokenizer", None)
    return llm.count_tokens(prompt) if tokenizer is None else len(tokenizer.encode(prompt))


def _write(model: Seq2Seq, text: str, max_tokens: int | None, as_json: bool) -> None:
    """Print what a model that reads a text writes of it."""
    started = time.perf_counter()
    (best,) = model.write([text], max_tokens=max_tokens)[0]
    if as_json:
        console.print_json(
            {
                "model": model.name,
                "text": best.text,
                "score": round(best.score, 4),
                "finish_reason": "length" if best.cut else "stop",
                "seconds": round(time.perf_counter() - started, 3),
            }
        )
        return
    print(harmless(best.text) if sys.stdout.isatty() else best.text)
    if best.cut:
        console.say("  (cut at the most tokens that an answer may have: --max-tokens, or what the model says or holds)")


def sampling_of(**given: object) -> SamplingParams:
    """SamplingParams whose complaints are for the command line."""
    try:
        return SamplingParams(**given)  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(str(error), "The verb's --help explains its options.") from error


def speak(tokens: Iterator[Token], *, silent: bool = False) -> Iterator[Token]:
    """Write the text of each token to stdout as it comes, a newline at the end; pass the tokens on.

    On a terminal control characters are left out: what a model writes must not move the cursor or set the title.
    """
    plain = sys.stdout.isatty()
    last = "\n"
    with closing(tokens):  # type: ignore[type-var]
        try:
            for token in tokens:
                text = harmless(token.text) if plain else token.text
                if text and not silent:
                    sys.stdout.write(text)
                    sys.stdout.flush()
                    last = text
                yield token
        finally:
            if not silent and not last.endswith("\n"):
                sys.stdout.write("\n")
                sys.stdout.flush()


def why_cut(tokens: Sequence[Token], sampling: SamplingParams, llm: LocalLLM | RemoteLLM | CreatedLLM) -> str:
    """Which limit ended an answer whose finish_reason is "length"."""
    if len(tokens) >= sampling.max_tokens:
        return f"cut at the limit of {sampling.max_tokens:,} tokens"
    return f"cut because the context of {llm.context_length:,} tokens is full"


def harmless(text: str) -> str:
    """Without control characters other than newline and tab."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


def _prompt(given: str | None) -> str:
    """The prompt from the command line, then what is piped in. Raises UsageError where both are empty."""
    parts = [given or ""]
    if sys.stdin is not None and not sys.stdin.isatty():
        source = getattr(sys.stdin, "buffer", None)
        piped = sys.stdin.read() if source is None else source.read().decode("utf-8", "replace")
        parts.append(piped.strip("\n"))
    text = "\n\n".join(part for part in parts if part.strip())
    if not text:
        raise UsageError(
            "there is no prompt", 'Give one after the model, or pipe it in: echo "Hello" | hornbook run MODEL'
        )
    return text
