"""The conversation that ``hornbook chat`` holds: turns, /commands, and a context that is never overrun in silence.

    read a turn -> command? -> do it
                -> text?    -> leave out oldest turns until the rest fits, and say so -> answer -> remember

On a terminal Ctrl-C stops the answer (what was said stays said) and Ctrl-D leaves. From a pipe each line is a turn,
nothing but answers is printed, and the first failure ends the conversation.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.cli import console
from hornbook.cli.talk import speak, why_cut
from hornbook.errors import ContextTooLong, HornbookError, UsageError
from hornbook.types import Message, SamplingParams, Token

if TYPE_CHECKING:
    from hornbook.engine.created import CreatedLLM
    from hornbook.engine.remote import RemoteLLM
    from hornbook.llm import LocalLLM

HELP = """\
  /system [TEXT]     set, or show, what the model is told before the conversation
  /set [NAME VALUE]  set, or list, how answers are drawn: temperature, top_p, max_tokens, seed, ...
  /clear             forget the conversation
  /save FILE         write the conversation to a file (JSON)
  /load FILE         go on with a saved one
  /exit              leave (or Ctrl-D)
  \"\"\"                begin a turn of several lines, and end it
  A line that begins with a space is never a command. Ctrl-C stops an answer."""

HISTORY_LINES = 1000


class Leave(Exception):
    """The person wants to go."""


class Conversation:
    def __init__(
        self, llm: LocalLLM | RemoteLLM | CreatedLLM, sampling: SamplingParams, *, system: str, home: Path
    ) -> None:
        self.llm = llm
        self.sampling = sampling
        self.system = system
        self.home = home
        self.turns: list[Message] = []  # user and assistant in turn, all that was said
        self.left_out = 0  # how many of the oldest turns the model no longer sees
        self.interactive = sys.stdin is not None and sys.stdin.isatty()

    def hold(self) -> None:
        """Until the person leaves or the input ends."""
        if self.interactive:
            context = f"{self.llm.context_length:,} tokens of context"
            console.say(f"{self.llm.name} · {context} · /help lists the commands, Ctrl-D leaves")
        with _line_editing(self.home) if self.interactive else contextlib.nullcontext():
            while True:
                try:
                    text = self._read()
                    if text.strip():
                        self._take(text)
                except (EOFError, Leave):
                    return
                except KeyboardInterrupt:
                    if not self.interactive:
                        raise
                    console.say("\n  (Ctrl-D or /exit leaves)")
                except HornbookError as error:
                    if not self.interactive:
                        raise
                    console.say(f"  {error.what}" + (f"\n  {error.remedy}" if error.remedy else ""))

    # --- input

    def _read(self) -> str:
        """One turn: a line, or several between triple quotes. Raises EOFError at the end of the input."""
        line = self._line("> ")
        if not line.lstrip().startswith('"""'):
            return line
        lines = [line.lstrip()[3:]]
        while not lines[-1].rstrip().endswith('"""'):
            try:
                lines.append(self._line(". "))
            except EOFError:  # the quotes were never closed: what stands there is the turn
                return "\n".join(lines).strip("\n")
        lines[-1] = lines[-1].rstrip()[:-3]
        return " " + "\n".join(lines).strip("\n")  # the space: never a command

    def _line(self, prompt: str) -> str:
        if self.interactive and sys.stdout.isatty():
            return input(prompt)
        if self.interactive:  # stdout is a file: the prompt is for the person, the answers for the file
            print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def _take(self, text: str) -> None:
        if not text.startswith("/"):
            self._answer(text.strip())
            return
        word, _, rest = text[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: console.say(HELP),
            "system": self._system,
            "set": self._set,
            "clear": self._clear,
            "save": self._save,
            "load": self._load,
            "exit": _leave,
            "quit": _leave,
        }
        if word not in commands:
            near = get_close_matches(word, commands, n=1)
            raise UsageError(
                f"there is no command /{word}",
                f"Did you mean /{near[0]}?" if near else "/help lists the commands; begin with a space to say it.",
            )
        try:
            commands[word](rest.strip())
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            raise UsageError(str(error)) from error

    # --- answers

    def _answer(self, text: str) -> None:
        """Ask, stream the answer, and remember both. A turn that could not be answered is not remembered."""
        question = Message("user", text)
        messages, left_out = self._fitting([*self.turns, question])
        if left_out > self.left_out:
            count = "the oldest turn was" if left_out == 1 else f"the {left_out} oldest turns were"
            console.say(f"  (the context of {self.llm.context_length:,} tokens is full: {count} left out)")
        self.left_out = left_out
        said: list[Token] = []
        try:
            for token in speak(self.llm.stream_chat(messages, sampling=self.sampling)):
                said.append(token)
                if token.finish_reason == "length":
                    console.say(f"  ({why_cut(said, self.sampling, self.llm)})")
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            console.say("  (stopped)")
        if said:
            self.turns += [question, Message("assistant", "".join(token.text for token in said))]

    def _fitting(self, turns: Sequence[Message]) -> tuple[list[Message], int]:
        """The messages that leave room for an answer, and how many of the oldest turns are not among them.

        A quarter of the context, or max_tokens if that is less, is kept for the answer; where even the last turn alone
        is too long for that, it may use the whole context, and beyond it raises ContextTooLong.
        """
        first = [Message("system", self.system)] if self.system else []
        room = self.llm.context_length - min(self.sampling.max_tokens, self.llm.context_length // 4)
        for left_out in range(0, len(turns), 2):  # a question goes together with its answer
            messages = [*first, *turns[left_out:]]
            tokens = self._tokens(messages)
            if tokens <= room:
                return messages, left_out
        if tokens >= self.llm.context_length:
            raise ContextTooLong(
                f"the message has {tokens:,} tokens; the context holds {self.llm.context_length:,}",
                "Say it in parts, or use a model with a longer context.",
            )
        return messages, left_out

    def _tokens(self, messages: Sequence[Message]) -> int:
        prompt = self.llm.render(messages)
        return self.llm.count_tokens(prompt) + 1 if isinstance(prompt, str) else len(prompt)

    # --- commands

    def _system(self, text: str) -> None:
        if text:
            self.system = text
        own = getattr(self.llm, "system", None)  # a created model's
        console.say(f"  system: {self.system or own or '(none)'}")

    def _set(self, text: str) -> None:
        known = {field.name: field for field in fields(SamplingParams) if field.name not in ("logprobs", "ignore_eos")}
        if text:
            name, _, value = text.replace("=", " ").partition(" ")
            if name not in known:
                raise ValueError(f"there is no setting {name!r}: the settings are {', '.join(known)}")
            self.sampling = replace(self.sampling, **{name: _value(name, value.strip())})
        for name in known:
            if not text or text.startswith(name):
                console.say(f"  {name} = {getattr(self.sampling, name)!r}")

    def _clear(self, _: str) -> None:
        self.turns, self.left_out = [], 0
        console.say("  the conversation is forgotten")

    def _save(self, name: str) -> None:
        path = _path(name)
        if path.exists() and _saved(path) is None:
            raise ValueError(f"{path} exists and is no saved conversation: choose another name")
        turns = [{"role": turn.role, "content": turn.content} for turn in self.turns]
        data = {"model": self.llm.name, "system": self.system, "messages": turns}
        path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", "utf-8")
        console.say(f"  {len(turns)} turns saved in {path}")

    def _load(self, name: str) -> None:
        path = _path(name)
        data = _saved(path)
        if data is None:
            raise ValueError(f"{path} is no saved conversation")
        turns = [Message.of(turn) for turn in data["messages"]]
        if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
            raise ValueError(f"{path}: the turns are not by the user and the assistant alternately")
        self.turns, self.system, self.left_out = turns, str(data.get("system") or ""), 0
        console.say(f"  {len(turns)} turns loaded from {path}")


def _leave(_: str) -> None:
    raise Leave


def _value(name: str, text: str) -> Any:
    """A setting's value from its text; raises ValueError that names the setting."""
    if name == "stop":
        return tuple(shlex.split(text))
    if name == "seed" and text.lower() in ("", "none", "off"):
        return None
    kind: type = int if name in ("max_tokens", "top_k", "repetition_window", "seed") else float
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, not {text!r}") from None


def _path(name: str) -> Path:
    if not name:
        raise ValueError("name a file")
    return Path(name).expanduser()


def _saved(path: Path) -> dict[str, Any] | None:
    """The conversation in a file, None where the file holds something else."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return None
    return data if isinstance(data, dict) and isinstance(data.get("messages"), list) else None


@contextlib.contextmanager
def _line_editing(home: Path) -> Any:
    """Arrow keys and a history across conversations, where Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    path = home / "chat_history"
    with contextlib.suppress(FileNotFoundError):
        try:
            readline.read_history_file(path)
        except (PermissionError, UnicodeDecodeError, IsADirectoryError) as error:
            console.say(f"  (earlier lines are not at hand: {error})")
    try:
        yield
    finally:
        readline.set_history_length(HISTORY_LINES)
        try:
            home.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)
        except OSError as error:
            console.say(f"  (the lines of this conversation are not kept: {error})")
