"""``hornbook run`` and ``hornbook chat``: one prompt, or a conversation. What the model says goes to stdout, the rest to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from hornbook.cli import console
from hornbook.cli.models import fetch
from hornbook.errors import UsageError
from hornbook.settings import Settings
from hornbook.types import Message, SamplingParams, Token

if TYPE_CHECKING:
    from hornbook.engine.remote import RemoteLLM
    from hornbook.engine.seq2seq import Seq2Seq
    from hornbook.llm import LocalLLM

SystemOption = Annotated[str, typer.Option(help="What the model is told before the conversation.")]
MaxTokens = Annotated[int, typer.Option(help="The most tokens that an answer may have.")]
RunTokens = Annotated[
    int | None,
    typer.Option(
        help="The most tokens that the answer may have. Default: 512; of a translator or the like, as its files say."
    ),
]
Temperature = Annotated[float, typer.Option(help="0: always the likeliest token. Higher: more varied.")]
TopP = Annotated[float, typer.Option(help="Draw only from the likeliest tokens of this total probability.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Stretch = Annotated[
    str | None,
    typer.Option(help="Read further than the model was trained for: linear, ntk, dynamic or yarn, as in yarn:4."),
]
Draft = Annotated[
    str, typer.Option(help="What guesses ahead: auto, lookup, none, or a small model with the same tokenizer.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never open a socket.")]


def run(
    model: Annotated[str, typer.Argument(help="A short name, a source, a GGUF file or a folder.", show_default=False)],
    prompt: Annotated[str | None, typer.Argument(help="The prompt. What is piped in is appended to it.")] = None,
    system: SystemOption = "",
    max_tokens: RunTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    device: Device = "auto",
    stretch: Stretch = None,
    draft: Draft = "auto",
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer and its figures as JSON.")] = False,
) -> None:
    """Give a model one prompt, from the line or from a pipe, and print its answer."""
    from hornbook.llm import LocalLLM, RemoteLLM

    text = _prompt(prompt)
    limit = 512 if max_tokens is None else max_tokens
    sampling = sampling_of(max_tokens=limit, temperature=temperature, top_p=top_p, seed=seed)
    if raw and system:
        raise UsageError(
            "--raw gives the model the text as it is: it has no place for --system", "Leave one of them out."
        )
    settings = Settings.load(offline=offline or None)
    with loaded(model, settings, device, stretch, draft) as llm:
        if not isinstance(llm, LocalLLM | RemoteLLM):
            useless = {
                "--system": system,
                "--raw": raw,
                "--temperature": temperature,
                "--top-p": top_p != 1.0,
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
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.4,
    top_p: TopP = 0.95,
    seed: Seed = None,
    device: Device = "auto",
    stretch: Stretch = None,
    draft: Draft = "auto",
    offline: Offline = False,
) -> None:
    """Talk with a model. /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.

    Where stdin is a pipe, each line is one turn.
    """
    from hornbook.cli.conversation import Conversation

    sampling = sampling_of(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    settings = Settings.load(offline=offline or None)
    with opened(model or settings.model, settings, device, stretch, draft) as llm:
        Conversation(llm, sampling, system=system, home=settings.home).hold()


# ------------------------------------------------------------------------------------------------------------- details


@contextmanager
def opened(
    model: str, settings: Settings, device: str, stretch: str | None = None, draft: str = "auto"
) -> Iterator[LocalLLM | RemoteLLM]:
    """The language model, closed at the end. Raises UsageError for a model that cannot hold a conversation."""
    from hornbook.llm import LocalLLM, RemoteLLM

    with loaded(model, settings, device, stretch, draft) as llm:
        if not isinstance(llm, LocalLLM | RemoteLLM):  # asked so, because Seq2Seq would bring torch with it
            raise UsageError(
                f"{llm.name} reads one text and writes another: it holds no conversation",
                f'Give it one text: hornbook run {model} "..."',
            )
        yield llm


@contextmanager
def loaded(
    model: str, settings: Settings, device: str, stretch: str | None = None, draft: str = "auto"
) -> Iterator[LocalLLM | RemoteLLM | Seq2Seq]:
    """The model, closed at the end. Raises UsageError for one that cannot write."""
    from hornbook.llm import LocalLLM, RemoteLLM, load

    fetch(settings, model)
    llm = load(model, device=device, stretch=stretch, draft=draft, settings=settings)
    with closing(llm):
        if not isinstance(llm, LocalLLM | RemoteLLM) and hasattr(llm, "embed"):
            raise UsageError(
                f"{llm.name} is an embedding model: it finds passages and does not write",
                "hornbook list shows the models.",
            )
        yield llm


def _count(llm: LocalLLM | RemoteLLM, prompt: str | list[int]) -> int:
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


def why_cut(tokens: Sequence[Token], sampling: SamplingParams, llm: LocalLLM | RemoteLLM) -> str:
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
