"""The server under load, beside llama.cpp's: every figure of docs/results/serve.md.

    python benchmarks/serve.py [--seconds 60] [--rounds 3] [--threads 2] [--only load,throughput] [--write]

load         64 streams at once, wave after wave: errors, how even they end, the time between two tokens
throughput   16 clients, each asking again as soon as it is answered; Hornbook and llama.cpp's server take turns
ready        from the command to the first answer of /health

Servers are processes of their own, and everything goes over loopback through /v1/completions as streams. Every answer has
the same number of tokens, its end token passed over, so that what is compared is the same work. Prompts differ from their
first token on, so that no server can know one from another. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from hornbook import __version__
from hornbook.checkpoint.store import Store
from hornbook.cli.bench import processor
from hornbook.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "serve.md"
MODEL = "smollm2:135m"
STREAMS, CLIENTS = 64, 16
NEW, PROMPT = 64, 400  # tokens of an answer, characters of a prompt (about 90 tokens)
FAIR, FASTER, READY = 3.0, 3.0, 4.0


@dataclass
class Told:
    """One answer as its client saw it, in seconds from when it was asked."""

    first: float = 0.0
    end: float = 0.0
    gaps: list[float] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class Running:
    address: str
    model: str
    version: str
    pid: int


# ------------------------------------------------------------------------------------------------------- the servers


@contextmanager
def hornbook(model: Path, threads: int) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HORNBOOK_HOME": home, "HORNBOOK_OFFLINE": "1", "HORNBOOK_THREADS": str(threads)}
        command = [sys.executable, "-m", "hornbook", "serve", str(model), "--port", "0", "--json", "--keep-alive", "-1"]
        with started(command, environment) as (process, said):
            yield Running(said["address"], model.stem, f"Hornbook {__version__}", process.pid)


@contextmanager
def llamacpp(model: Path, threads: int) -> Iterator[Running]:
    script = ROOT / "benchmarks" / "peers" / "xllamacpp_server.py"
    command = [sys.executable, str(script), str(model), str(threads), str(CLIENTS), "1024"]
    with started(command, dict(os.environ)) as (process, said):
        yield Running(said["address"], model.stem, said["version"], process.pid)


@contextmanager
def started(
    command: Sequence[str], environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("{")), None)
        if line is None:
            raise SystemExit(f"{command[1]} did not start")
        yield process, json.loads(line)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


# ------------------------------------------------------------------------------------------------------- the clients


async def ask(server: Running, prompt: str, new: int = NEW) -> Told:
    """One streamed answer. The client is as small as it can be, for it runs on the same processors."""
    told = Told()
    body = {
        "model": server.model, "prompt": prompt, "max_tokens": new, "stream": True, "ignore_eos": True,
        "temperature": 0.8, "seed": 1,
    }  # fmt: skip
    data = json.dumps(body).encode()
    place = urlsplit(server.address)
    begun = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        last, done = 0.0, False
        async for line in reader:
            if line.startswith(b"data: "):
                now = time.perf_counter() - begun
                if line.startswith(b"data: [DONE]"):
                    done = True
                elif b'"error"' in line and "error" in json.loads(line[6:]):  # and not a token that reads so
                    told.error = line.decode().strip()
                else:
                    if last:
                        told.gaps.append(now - last)
                    else:
                        told.first = now
                    last = now
        writer.close()
        if not done:
            told.error = told.error or "the stream ended early"
    except OSError as error:
        told.error = str(error)
    told.end = time.perf_counter() - begun
    return told


def prompts() -> Iterator[str]:
    """Texts that all begin differently."""
    text = (ROOT / "LICENSE").read_text("utf-8")
    number = 0
    while True:
        number += 1
        start = (number * 997) % (len(text) - PROMPT)
        yield f"{number}. {text[start : start + PROMPT]}"


async def waves(server: Running, seconds: float) -> list[list[Told]]:
    source, found = prompts(), []
    begun = time.perf_counter()
    while not found or time.perf_counter() - begun < seconds:
        found.append(await asyncio.gather(*(ask(server, next(source)) for _ in range(STREAMS))))
    return found


async def loops(server: Running, seconds: float) -> tuple[list[Told], float]:
    """(answers, seconds that they took): each client asks until the time is over, and then its last is waited for."""
    source, answers = prompts(), []
    begun = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() - begun < seconds:
            answers.append(await ask(server, next(source)))

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return answers, time.perf_counter() - begun


# ---------------------------------------------------------------------------------------------------------- the rows

Row = tuple[str, str, str, str, bool | None]  # what, ours, theirs, bar, met


def load_rows(model: Path, threads: int, seconds: float) -> list[Row]:
    with hornbook(model, threads) as server:
        asyncio.run(ask(server, "warm", 2))
        found = asyncio.run(waves(server, seconds))
        memory = resident(server.pid)
    answers = [told for wave in found for told in wave]
    errors = [told.error for told in answers if told.error]
    for error in errors[:3]:
        print(f"  {error}", file=sys.stderr)
    good = [wave for wave in found if not any(told.error for told in wave)]
    fair = max((max(t.end for t in wave) / min(t.end for t in wave) for wave in good), default=float("inf"))
    gaps = sorted(gap for told in answers for gap in told.gaps)
    firsts = sorted(told.first for told in answers if told.first)
    tokens = STREAMS * NEW * len(good)
    spent = sum(max(told.end for told in wave) for wave in good)
    return [
        (f"{STREAMS} streams at once, {seconds:.0f} s: errors", f"{len(errors)} of {len(answers)}", "", "0", not errors),
        ("slowest / fastest of a wave, the worst wave", f"{fair:.2f}x", "", f"<= {FAIR}x", fair <= FAIR),
        ("from token to token, median", ms(gaps, 0.5), "", "", None),
        ("from token to token, 99 of 100", ms(gaps, 0.99), "", "reported", None),
        ("to the first token, median", ms(firsts, 0.5), "", "", None),
        ("tokens a second, prompts read beside", f"{tokens / spent:,.0f}" if spent else "-", "", "", None),
        ("memory of the server after it", f"{memory / 1e6:,.0f} MB", "", "", None),
    ]  # fmt: skip


def throughput_rows(model: Path, threads: int, seconds: float, rounds: int) -> list[Row]:
    rates: dict[str, list[float]] = {}
    versions: dict[str, str] = {}
    for number in range(rounds + 1):  # the first does not count
        for name, start in (("ours", hornbook), ("theirs", llamacpp)):
            with start(model, threads) as server:
                versions[name] = server.version
                asyncio.run(ask(server, "warm", 2))
                answers, spent = asyncio.run(loops(server, seconds if number else min(seconds, 3.0)))
            if bad := [told.error for told in answers if told.error]:
                raise SystemExit(f"{server.version}: {len(bad)} of {len(answers)} failed: {bad[0]}")
            if number:
                rates.setdefault(name, []).append(NEW * len(answers) / spent)
            print(f"  {server.version}: {NEW * len(answers) / spent:,.0f} tokens/s", file=sys.stderr)
    ours, theirs = statistics.median(rates["ours"]), statistics.median(rates["theirs"])
    ratio = ours / theirs
    what = f"{CLIENTS} clients, tokens a second, prompts read beside ({versions['theirs']})"
    return [(what, f"{ours:,.0f}", f"{theirs:,.0f}", f">= {FASTER}x: {ratio:.2f}x", ratio >= FASTER)]


def ready_rows(model: Path, threads: int) -> list[Row]:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        with hornbook(model, threads):
            times.append(time.perf_counter() - begun)
    seconds = statistics.median(times)
    return [("ready after", f"{seconds:.1f} s", "", f"< {READY:.0f} s", seconds < READY)]


def ms(values: Sequence[float], share: float) -> str:
    return f"{1000 * values[min(len(values) - 1, int(share * len(values)))]:.0f} ms" if values else "-"


def resident(pid: int) -> int:
    import psutil

    return int(psutil.Process(pid).memory_info().rss)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="ready,load,throughput")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    wanted = options.only.split(",")
    model = Store(Settings.load()).ensure(MODEL).path
    rows: list[Row] = []
    if "ready" in wanted:
        rows += ready_rows(model, options.threads)
    if "load" in wanted:
        rows += load_rows(model, options.threads, options.seconds)
    if "throughput" in wanted:
        rows += throughput_rows(model, options.threads, max(2.0, options.seconds / 3), options.rounds)
    table = ["| what | Hornbook | llama.cpp's server | bar | |", "|---|---|---|---|---|"]
    for what, ours, theirs, bar, met in rows:
        table.append(
            f"| {what} | {ours} | {theirs} | {bar} | {'' if met is None else 'met' if met else '**missed**'} |"
        )
    print("\n".join(table))
    if options.write:
        head = f"""# The server: what was measured

    python benchmarks/serve.py --seconds {options.seconds:.0f} --rounds {options.rounds} --write

Machine: {processor()}, {os.cpu_count()} processors, {platform.platform()}; {options.threads} threads for every server; Python
{platform.python_version()}; {datetime.now(UTC):%Y-%m-%d}. SmolLM2-135M-Instruct, Q4_1, the same file for both. Each answer has {NEW} tokens after a prompt
of about 90; clients run on the same processors. Throughput: medians of {options.rounds} rounds, servers taking turns.

"""
        PAGE.write_text(head + "\n".join(table) + "\n", "utf-8")


if __name__ == "__main__":
    main()
