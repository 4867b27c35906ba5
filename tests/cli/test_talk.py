"""``run`` and ``chat``: pipes, flags, commands, a full context, and a real terminal (a pty) with Ctrl-C and Ctrl-D."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import hornbook
from hornbook import cli
from hornbook.cli import talk
from hornbook.cli.conversation import Conversation
from hornbook.types import Message, SamplingParams


class Result:
    def __init__(self, code: Any, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def hb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> Any:
    """Run the command line in this process, with ``stdin`` piped in."""

    def call(*arguments: str, stdin: str | bytes = "") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        captured = capsys.readouterr()
        return Result(ended.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def tiny(tiny_llm_path: Path) -> str:
    return str(tiny_llm_path)


# ----------------------------------------------------------------------------------------------------------------- run


def test_run_prints_the_answer_and_nothing_else(hb: Any, tiny: str) -> None:
    result = hb("run", tiny, "Hello", "--max-tokens", "8")
    with hornbook.load(tiny, device="cpu") as llm:
        said = llm.chat([Message("user", "Hello")], sampling=SamplingParams(max_tokens=8)).content
    assert (result.code, result.out.rstrip("\n")) == (0, said.rstrip("\n"))
    assert result.out.endswith("\n")


def test_run_reads_a_pipe_alone_or_after_the_prompt(hb: Any, tiny: str) -> None:
    options = ("--max-tokens", "8")
    assert hb("run", tiny, *options, stdin="Hello\n").out == hb("run", tiny, "Hello", *options).out
    both = hb("run", tiny, "Sum up:", *options, stdin="a\nb\n").out
    assert both == hb("run", tiny, "Sum up:\n\na\nb", *options).out
    assert hb("run", tiny, *options, stdin="你好".encode() + b"\xff").code == 0  # bytes that are no UTF-8


def test_run_json_holds_the_answer_and_its_figures(hb: Any, tiny: str) -> None:
    options = ("--max-tokens", "8", "--temperature", "1.2", "--top-p", "0.9", "--seed", "7")
    data = json.loads(hb("run", tiny, "Hello", "--json", *options).out)
    assert set(data) == {"model", "text", "finish_reason", "usage", "seconds"}
    with hornbook.load(tiny, device="cpu") as llm:
        prompt = llm.render([Message("user", "Hello")])
        sampling = SamplingParams(max_tokens=8, temperature=1.2, top_p=0.9, seed=7)
        completion = llm.generate(prompt, sampling)[0]
    assert data["text"] == completion.text
    assert data["finish_reason"] == completion.finish_reason
    assert data["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": completion.usage.completion_tokens}


def test_run_raw_continues_the_text_and_system_sets_the_scene(hb: Any, tiny: str) -> None:
    with hornbook.load(tiny, device="cpu") as llm:
        raw = llm.generate("Hello", SamplingParams(max_tokens=8))[0].text
        scene = llm.chat(
            [Message("system", "Be"), Message("user", "Hello")], sampling=SamplingParams(max_tokens=8)
        ).content
    assert json.loads(hb("run", tiny, "Hello", "--raw", "--json", "--max-tokens", "8").out)["text"] == raw
    assert json.loads(hb("run", tiny, "Hello", "--system", "Be", "--json", "--max-tokens", "8").out)["text"] == scene
    assert hb("run", tiny, "Hello", "--raw", "--system", "Be").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["run", "{tiny}"], 2, "no prompt"),
        (["run", "{tiny}", "  "], 2, "no prompt"),
        (["run", "no-such-model:1b", "Hi"], 2, "no-such-model"),
        (["run", "{tiny}", "Hi", "--top-p", "7"], 2, "top_p"),
        (["run", "{tiny}", "Hi", "--max-tokens", "0"], 2, "max_tokens"),
        (["run", "{tiny}", "word " * 400], 2, "256"),
        (["run", "{tiny}", "Hi", "--device", "abacus"], 2, "abacus"),
        (["chat", "{tiny}", "--temperature", "-1"], 2, "temperature"),
    ],
)
def test_wrong_use_is_one_clear_line(hb: Any, tiny: str, arguments: list[str], code: int, what: str) -> None:
    result = hb(*[word.format(tiny=tiny) for word in arguments])
    assert result.code == code
    assert what in result.err.splitlines()[0]
    assert "Traceback" not in result.err
    assert result.out == ""


@pytest.mark.models
def test_an_embedding_model_does_not_write(hb: Any, minilm_path: Path) -> None:
    result = hb("run", str(minilm_path), "Hello")
    assert result.code == 2
    assert "embedding model" in result.err


def test_a_cut_answer_says_so_on_stderr(hb: Any, tiny: str) -> None:
    result = hb("run", tiny, "Hello", "--max-tokens", "2")
    assert "cut at the limit of 2 tokens" in result.err


def test_a_terminal_is_given_no_control_characters() -> None:
    assert talk.harmless("a\x1b[31mb\x07\r\n\tc\x9b0mé你") == "a[31mb\n\tc0mé你"


# -------------------------------------------------------------------------------------------------- chat from a pipe


def test_chat_from_a_pipe_prints_only_answers_and_remembers(hb: Any, tiny: str) -> None:
    options = ("--max-tokens", "6", "--temperature", "0")
    result = hb("chat", tiny, *options, stdin="Hello\n\nAnd now?\n")
    assert (result.code, "> " in result.out) == (0, False)
    with hornbook.load(tiny, device="cpu") as llm:
        sampling = SamplingParams(max_tokens=6, top_p=0.95)
        turns = [Message("user", "Hello")]
        first = llm.chat(turns, sampling=sampling).content
        second = llm.chat([*turns, Message("assistant", first), Message("user", "And now?")], sampling=sampling).content
    lines = [said if said.endswith("\n") else said + "\n" for said in (first, second) if said]
    assert result.out == "".join(lines)


def test_a_failure_ends_a_piped_chat_with_its_code(hb: Any, tiny: str) -> None:
    result = hb("chat", tiny, stdin="/nonsense\nHello\n")
    assert result.code == 2
    assert "no command /nonsense" in result.err
    assert result.out == ""


# ------------------------------------------------------------------------------------------- the conversation itself


class Talk:
    """A Conversation over a script, fed line by line."""

    def __init__(self, home: Path, capsys: Any, replies: Any = None, **options: Any) -> None:
        self.llm = hornbook.ScriptedLLM(replies or (lambda prompt: "Fine, and you?"), **options)
        self.held = Conversation(self.llm, SamplingParams(max_tokens=20), system="", home=home)  # type: ignore[arg-type]
        self.capsys = capsys

    def say(self, text: str) -> str:
        """Take one turn; return everything that was printed."""
        self.held._take(text)
        captured = self.capsys.readouterr()
        return captured.out + captured.err


@pytest.fixture
def talking(home: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    home.mkdir()
    return lambda *replies, **options: Talk(home, capsys, *replies, **options)


def test_a_full_context_leaves_out_oldest_turns_and_says_how_many(talking: Any) -> None:
    held = talking(lambda prompt: "word " * 10, context_length=60)
    held.say("/system Be kind.")
    outputs = [held.say(f"turn {i} " + "x " * 8) for i in range(5)]
    assert "left out" not in outputs[0]
    said = re.findall(r"the (?:oldest turn was|(\d+) oldest turns were) left out", "".join(outputs))
    assert said
    last = held.llm.asked[-1].messages
    assert last[0] == Message("system", "Be kind.")
    assert last[1].role == "user"
    assert last[-1].content.startswith("turn 4")
    assert (
        len(last) - 1 + held.held.left_out == len(held.held.turns) - 1
    )  # all but the last answer: seen or said to be left out
    assert held.llm.count_tokens(held.llm.render(last)) <= 60 - 15


def test_a_turn_that_cannot_fit_is_refused_and_not_remembered(talking: Any) -> None:
    held = talking(context_length=60)
    with pytest.raises(hornbook.HornbookError, match="60"):
        held.say("x " * 100)
    assert held.held.turns == []
    assert "Fine" in held.say("short")


def test_an_answer_that_fills_the_context_says_so(talking: Any) -> None:
    held = talking(lambda prompt: "word " * 50, context_length=20)
    assert "cut because the context of 20 tokens is full" in held.say("Hello")


def test_set_changes_how_answers_are_drawn_and_refuses_what_it_does_not_know(talking: Any) -> None:
    held = talking()
    assert "temperature = 0.0" in held.say("/set")
    held.say("/set temperature 0.9")
    held.say("/set max_tokens=2")
    assert "cut at the limit" in held.say("Hello")
    assert held.llm.asked[-1].sampling.temperature == 0.9
    held.say('/set stop "and you" x')
    assert held.held.sampling.stop == ("and you", "x")
    for wrong in ("/set warmth 3", "/set temperature hot", "/set top_p 4", "/sett", '/set stop "'):
        with pytest.raises(hornbook.HornbookError):
            held.say(wrong)
    assert held.held.sampling.temperature == 0.9


def test_a_conversation_is_saved_loaded_and_cleared(talking: Any, tmp_path: Path) -> None:
    first, file = talking(), tmp_path / "talk.json"
    first.say("/system Be kind.")
    first.say("你好 <b>")
    first.say(f"/save {file}")
    first.say(f"/save {file}")  # over its own kind
    second = talking()
    second.say(f"/load {file}")
    assert (second.held.turns, second.held.system) == (first.held.turns, "Be kind.")
    second.say("/clear")
    assert second.held.turns == []
    other = tmp_path / "notes.txt"
    other.write_text("precious", "utf-8")
    for wrong in (
        f"/save {other}",
        f"/load {other}",
        "/save",
        "/load",
        f"/load {tmp_path / 'none.json'}",
        f"/save {tmp_path}",
    ):
        with pytest.raises(hornbook.HornbookError):
            second.say(wrong)
    assert other.read_text("utf-8") == "precious"
    file.write_text('{"messages": [{"role": "assistant", "content": "x"}]}', "utf-8")
    with pytest.raises(hornbook.HornbookError, match="alternately"):
        second.say(f"/load {file}")


def test_a_leading_space_is_text_and_near_misses_are_offered(talking: Any) -> None:
    held = talking()
    held.say(" /usr/bin is what?")
    assert held.llm.asked[-1].messages[-1].content == "/usr/bin is what?"
    with pytest.raises(hornbook.HornbookError, match="/clear"):
        held.say("/claer")
    assert "/save FILE" in held.say("/help")


# ------------------------------------------------------------------------------------------------- on a real terminal

on_unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty and other signals")


# Takes the pty as its controlling terminal, so that Ctrl-C reaches it. Not a preexec_fn: Python code between fork and
# exec may wait for ever for a lock that another thread of this process held.
_WITH_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "hornbook", *sys.argv[1:]])
"""


class Terminal:
    """``hornbook ...`` under a pty."""

    started: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, arguments: list[str], home: Path) -> None:
        import pty

        self.master, slave = pty.openpty()
        environment = {**os.environ, "HORNBOOK_HOME": str(home), "TERM": "dumb", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WITH_A_TERMINAL, *arguments],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""
        Terminal.started.append(self.process)

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, pattern: str, seconds: float = 60.0) -> str:
        """Read until the output since the last call matches; return it."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen, re.DOTALL)):
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come within {seconds} s; the terminal shows:\n{self.seen}"
            try:
                self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:
                pytest.fail(f"ended before {pattern!r}; the terminal shows:\n{self.seen}")
        found, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return found

    def press_until(self, key: str, pattern: str) -> None:
        """Press a key as a person does, again when nothing happens: between a prompt and the wait for a key, Python's
        input() takes a signal only with the next key."""
        for _ in range(20):
            self.send(key)
            with contextlib.suppress(AssertionError):
                self.until(pattern, 3.0)
                return
        pytest.fail(f"{key!r} did not bring {pattern!r}; the terminal shows:\n{self.seen}")

    def end(self) -> int:
        try:
            return self.process.wait(30)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            os.close(self.master)


@pytest.fixture(autouse=True)
def no_terminal_left_behind() -> Iterator[None]:
    """A test that failed in the middle of a conversation does not leave it running."""
    yield
    while Terminal.started:
        process = Terminal.started.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def endless(tiny_llm_path: Path, tmp_path: Path) -> str:
    """The tiny model with a long context, and an end token that is never the likeliest: only a person can stop it."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "endless"
    shutil.copytree(tiny_llm_path, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 65536}), "utf-8")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][:3] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@on_unix
def test_chat_on_a_terminal(endless: str, home: Path) -> None:
    terminal = Terminal(["chat", endless, "--temperature", "0", "--max-tokens", "4"], home)
    banner = terminal.until("> ")
    assert "65,536 tokens of context" in banner
    assert "\x1b[3" not in banner  # no colour
    terminal.send("Hello\n")
    terminal.until("cut at the limit.*> ")
    terminal.send("/set max_tokens 100000\n/set ignore\n")
    terminal.until("no setting 'ignore'.*> ")
    terminal.send('"""first\nsecond"""\n')
    terminal.until(r"second\"\"\"\r\n.{20}")  # in the middle of an answer that would run for minutes
    terminal.send("\x03")
    terminal.until(r"\(stopped\).*> ")
    assert terminal.process.poll() is None  # the answer stopped, the program did not
    terminal.press_until("\x03", r"leaves\).*> ")  # at the prompt
    terminal.send("/clear\n")
    terminal.until("forgotten.*> ")
    terminal.send("\x04")
    assert terminal.end() == 0
    history = home / "chat_history"
    assert "Hello" in history.read_text("utf-8")
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_in_mid_answer_keeps_what_was_said(
    talking: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = talking("one two three four five")
    held.held.interactive = True
    write = sys.stdout.write

    def interrupting(text: str) -> int:
        if "three" in text:
            raise KeyboardInterrupt
        return write(text)

    monkeypatch.setattr(sys.stdout, "write", interrupting)
    said = held.say("Count")
    assert "(stopped)" in said
    assert held.held.turns == [Message("user", "Count"), Message("assistant", "one two")]


@on_unix
def test_a_reader_that_leaves_early_ends_run_quietly(tiny: str, home: Path) -> None:
    """hornbook run ... | head -c 1"""
    environment = {**os.environ, "HORNBOOK_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hornbook", "run", tiny, "Hello", "--max-tokens", "200"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    complaint = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(60), complaint) == (0, "")


@on_unix
def test_ctrl_c_ends_run_with_130_and_keeps_what_was_printed(endless: str, home: Path) -> None:
    environment = {**os.environ, "HORNBOOK_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hornbook", "run", endless, "Hello", "--max-tokens", "60000"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (first + rest).endswith(b"\n")
    assert complaint.decode() == "hornbook: stopped\n"
