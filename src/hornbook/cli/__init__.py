"""The command line: one file a group of verbs, and only the verb that was asked for is imported.

    hornbook            the four things that most people come for     (this file, no dependency loaded)
    hornbook --help     every verb, a line each                       (likewise)
    hornbook VERB ...   VERBS[VERB] is imported, typer turns its signature into options, and it runs

A verb is a plain typed function. It raises HornbookError for a person to read; ``main`` prints it as two lines on
stderr and ends with 1 (a failure) or 2 (wrong use). A traceback is shown only with --debug.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from hornbook import __version__
from hornbook.errors import HornbookError


class Verb(NamedTuple):
    module: str
    summary: str
    example: str


VERBS = {
    "ask": Verb("ask", "Ask a folder a question; every citation is checked.", 'hornbook ask papers "What limits the batch size?"'),
    "chat": Verb("talk", "Talk with a model.", "hornbook chat smollm2:135m"),
    "run": Verb("talk", "Give a model one prompt, from the line or from a pipe.", 'hornbook run smollm2:135m "Say hello"'),
    "ingest": Verb("index", "Read files into an index, or bring it up to date.", "hornbook ingest papers notes.md"),
    "search": Verb("index", "Find passages, without a language model.", 'hornbook search papers "batch size" --k 5'),
    "pull": Verb("models", "Fetch a model into the store.", "hornbook pull smollm2:135m"),
    "list": Verb("models", "List the models in the store.", "hornbook list"),
    "show": Verb("models", "Show what a model is, and its licence.", "hornbook show smollm2:135m"),
    "plan": Verb("plan", "Tell how much memory a model will need.", "hornbook plan smollm2:135m --train lora --context 1024"),
    "corpus": Verb("corpus", "Make a corpus of raw text: clean, deduplicate, decontaminate, scrub and split it.", "hornbook corpus recipes/corpus.yaml -o corpus"),
    "train": Verb("train", "Train or fine-tune a model by a recipe.", "hornbook train recipes/telegram.yaml"),
    "runs": Verb("runs", "List, compare and follow the runs of train.", "hornbook runs --follow"),
    "eval": Verb("eval", "Score a model on tasks, with error bars, or compare two.", "hornbook eval smollm2:135m --tasks arc_easy,boolq --limit 200"),
    "export": Verb("export", "Write a model as GGUF or as a Hugging Face folder, and compare the copy.", "hornbook export smollm2:135m --to gguf -q Q4_K_M -o small.gguf"),
    "merge": Verb("export", "Write a model with an adapter merged into it as a Hugging Face folder.", "hornbook merge smollm2:135m pirate -o smollm2-pirate"),
    "bench": Verb("bench", "Measure how fast a model runs here, beside other programs if wanted.", "hornbook bench smollm2:135m --against llamacpp"),
    "serve": Verb("serve", "Serve models, collections and a page on this machine.", "hornbook serve --open"),
    "create": Verb("create", "Make a model of your own by a Modelfile.", "hornbook create terse -f Modelfile"),
    "cp": Verb("create", "Give a model a second name.", "hornbook cp terse short"),
    "rm": Verb("models", "Remove a model from the store.", "hornbook rm gemma3:270m"),
    "doctor": Verb("doctor", "Check this installation, and say what to do.", "hornbook doctor"),
    "key": Verb("key", "Make, list and revoke the keys of the server.", "hornbook key add phone"),
    "systems": Verb("systems", "List the published systems that Hornbook implements, with their proofs.", "hornbook systems"),
}  # fmt: skip

FRONT = """\
Hornbook {version}: a language model of your own, over your own documents, offline.

  hornbook ask FOLDER "question"     answers from the folder, each [n] a file, page and exact span
  hornbook chat                      talk with the default model
  hornbook pull gemma3:270m          fetch another model
  hornbook doctor                    check this machine

hornbook --help lists every verb; hornbook VERB --help explains one.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the ``hornbook`` command. Never returns: it ends the process with the verb's exit code."""
    _share_the_processors()
    _collect_seldom()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "_HORNBOOK_COMPLETE" in os.environ:  # the shell asks for completions
        _typer(list(VERBS))(prog_name="hornbook")
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    for name in ("stdout", "stderr"):  # a terminal in the C locale must not turn Chinese into a traceback
        with contextlib.suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(errors="replace")
    code = _guarded(given, debug)
    with contextlib.suppress(BrokenPipeError, ValueError, OSError):
        sys.stdout.flush()
    _leave(code)


def _share_the_processors() -> None:
    """Let torch's threads wait for each other asleep, not spinning, unless the person has said otherwise.

    Spinning gains 1 to 3% on an idle machine. But where another program holds one of two cores, the thread that spins
    takes the time that the thread it waits for needs: reading a prompt took ten times as long
    (docs/decisions/0008-threads-that-sleep.md). GNU's OpenMP reads this once, when torch is loaded.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "2000"


def _collect_seldom() -> None:
    """Let Python look for circles of dead objects once in 50,000 new ones, not in 700, and not at all when the process ends.

    Almost all that a verb makes while it starts are modules, classes and functions, which stay. Where torch is loaded,
    to search them again and again takes 0.1 s, and once more at the end 0.2 to 0.4 s; the system takes all memory back
    anyway. What has to happen at the end (atexit, weakref.finalize, open files' last lines) still does.
    """
    gc.set_threshold(50_000, 20, 50)
    atexit.register(gc.freeze)


def _dispatch(given: list[str]) -> int:
    if not given:
        print(FRONT.format(version=__version__), end="")
        return 0
    word, *rest = given
    if word in ("--help", "-h", "help") and not rest:
        print(_help(), end="")
        return 0
    if word == "help":
        word, rest = rest[0], ["--help"]
    if word in ("--version", "-V"):
        print(f"hornbook {__version__}")
        return 0
    if word not in VERBS:
        return _unknown(word)
    app = _typer([word])
    result = app(args=rest, prog_name=f"hornbook {word}", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _guarded(given: list[str], debug: bool) -> int:
    """Run, and turn every way of failing into a line for a person and an exit code."""
    try:
        return _dispatch(given)
    except HornbookError as error:
        if debug:
            raise
        _complain(error.what, error.remedy)
        return error.exit_code
    except (KeyboardInterrupt, EOFError):
        _complain("stopped")
        return 130
    except BrokenPipeError:
        return _closed_early()
    except MemoryError:
        if debug:
            raise
        _complain("not enough memory", "Close other programs, or use a smaller model or file.")
        return 1
    except Exception as error:
        # typer's own errors (its classes moved between versions, so they are told by what they can do)
        if type(error).__name__ == "Abort":
            _complain("stopped")
            return 130
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            verb = given[0] if given else ""
            _complain(error.format_message().rstrip("."), f"hornbook {verb} --help shows the use.")
            return int(error.exit_code)
        if debug:
            raise
        _complain(
            f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}",
            "This is a defect of Hornbook: run again with --debug and report the traceback.",
        )
        return 1


def _closed_early() -> int:
    """Whoever read our output has gone (``| head``): that is their right, and no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _leave(code: int) -> NoReturn:
    raise SystemExit(code)


def _complain(what: str, remedy: str = "") -> None:
    with contextlib.suppress(OSError):
        print(f"hornbook: {what}", file=sys.stderr)
        if remedy:
            print(f"  {remedy}", file=sys.stderr)


def _unknown(word: str) -> int:
    from difflib import get_close_matches

    near = get_close_matches(word, VERBS, n=2, cutoff=0.5)
    kind = "option" if word.startswith("-") else "verb"
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    _complain(f"there is no {kind} {word!r}", f"{hint}hornbook --help lists every verb.")
    return 2


def _help() -> str:
    width = max(map(len, VERBS))
    lines = ["Usage: hornbook VERB [ARGUMENTS] [OPTIONS]", ""]
    lines += [f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()]
    lines += [
        "",
        "  --version  the version        --debug  a full traceback when something fails",
        "",
        "hornbook VERB --help explains a verb, with an example.",
        "",
    ]
    return "\n".join(lines)


def _typer(verbs: list[str]) -> Any:
    """A typer application of these verbs only, so that one verb costs the import of one file."""
    import typer

    app = typer.Typer(add_completion=len(verbs) > 1, pretty_exceptions_enable=False, rich_markup_mode=None)
    for name in verbs:
        verb = VERBS[name]
        function = getattr(import_module(f"hornbook.cli.{verb.module}"), name.replace("-", "_"))
        app.command(name, epilog=f"Example: {verb.example}")(_ending_well(function))
    return app


def _ending_well(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
            sys.stdout.flush()
            return result
        except BrokenPipeError:  # both are caught here, before typer gives them its own meaning
            return _closed_early()
        except KeyboardInterrupt:
            _complain("stopped")
            return 130

    return wrapped
