"""Scores beside lm-evaluation-harness with transformers: are they the same, and how long does it take?

    python benchmarks/evals.py parity [--models smollm2:135m,gemma3:270m] [--kinds mmlu,...] [--limit N] [--work FOLDER] [--write]
    python benchmarks/evals.py speed  [--models smollm2:135m,gemma3:270m] [--limit N] [--work FOLDER] [--write]
    python benchmarks/evals.py golden --models smollm2:135m [--work FOLDER]

parity  the samples of eight benchmarks, whole, without solved examples; of GSM8K the 100 shortest. Both programs compute in
        float32 with the same weights: those of the GGUF file, which our export writes as a folder of transformers. What each
        found is kept in the work folder, and asked for once.
speed   questions of multiple choice: MMLU after five solved examples, ARC, BoolQ, PIQA and WinoGrande after none; of each the
        first ``--limit`` items, and of MMLU as many more as its sample is longer than the others. Seconds from the tasks to the scores, the loading of the model left out, each program in a
        process of its own. The harness gets the batch size that is fastest here. Leave the machine alone meanwhile.

golden  what the harness finds of the hundred shortest items of each kind, into tests/evals/golden: a test holds our engine to it.

--write puts the tables into docs/results/evals.md. The harness runs as it is, but for parity only the logits that it looks at
are computed, and texts of one length go together.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HORNBOOK_DATA", ROOT.parent / "shared" / "data"))
PAGE = ROOT / "docs" / "results" / "evals.md"
GOLDEN = ROOT / "tests" / "evals" / "golden"
sys.path.insert(0, str(ROOT / "tests" / "evals"))  # the samples in the forms of both programs

MODELS = "smollm2:135m,gemma3:270m"
BAR, EXACTLY = 1e-3, 20  # nats between the two; so many beyond it are computed in float64
WRITTEN = 100  # items of GSM8K
QUICK = ("mmlu", "arc_easy", "arc_challenge", "boolq", "piqa", "winogrande")
BATCHES, TRIED = (1, 8), 4  # of the harness, which are tried on so many items of each
ITEMS = 25  # of each, and of MMLU as many more as its sample is longer
NAMES = {"mmlu": "MMLU", "arc_easy": "ARC easy", "arc_challenge": "ARC challenge", "boolq": "BoolQ", "piqa": "PIQA",
         "winogrande": "WinoGrande", "lambada_openai": "LAMBADA", "gsm8k": "GSM8K"}  # fmt: skip


def folder_of(model: str, work: Path) -> Path:
    """The model's weights in float32, as transformers reads them."""
    folder = work / f"{model.replace(':', '-')}-float32"
    if not (folder / "config.json").exists():
        from hornbook.checkpoint.loading import load
        from hornbook.checkpoint.saving import save

        partial = folder.with_suffix(".partial")
        save(load(path_of(model), dtype="float32", device="cpu"), partial)
        partial.rename(folder)
    return folder


def path_of(model: str) -> Path:
    from hornbook.checkpoint.store import Store
    from hornbook.settings import Settings

    return Store(Settings.load()).ensure(model).path


# ---------------------------------------------------------------------------------------------------------------- parity


def parity(models: Sequence[str], kinds: Sequence[str], limit: int | None, work: Path, write: bool) -> None:
    import harness_samples as samples

    rows, notes = [], []
    for model in models:
        folder = folder_of(model, work)
        given = {
            kind: samples.sample(DATA, kind, min(limit or WRITTEN, WRITTEN) if kind == "gsm8k" else limit)
            for kind in kinds
        }
        other = {kind: _theirs(model, folder, kind, given[kind], work) for kind in kinds}
        results = _ours(folder, given, work)
        apart = []
        for kind in kinds:
            mine = samples.judged_by_us(results[kind])
            found = samples.difference(mine, other[kind])
            rows.append((model, kind, found, samples.accuracies(mine), samples.accuracies(other[kind])))
            print(model, kind, found, rows[-1][3], rows[-1][4], flush=True)
            apart += samples.apart(results[kind], other[kind], BAR)
        notes.append(f"{model}: {_exactly(folder, apart)}")
        print(notes[-1], flush=True)
    table = [
        "| model | sample | items | Hornbook | lm-evaluation-harness | furthest log-likelihoods | other choices | other texts |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model, kind, found, ours, theirs in rows:
        furthest, choices, texts = f"{found.furthest:.1e}", str(found.choices + found.greedy), "–"
        if kind == "gsm8k":
            furthest, choices, texts = "–", "–", str(found.texts)
        told = [" ".join(f"{name} {100 * value:.2f}" for name, value in one.items()) for one in (ours, theirs)]
        table.append(
            f"| {model} | {NAMES[kind]} | {found.items} | {' | '.join(told)} | {furthest} | {choices} | {texts} |"
        )
    _tell("parity", [*table, "", *(line for note in notes for line in (note, ""))][:-1], write)


def _exactly(folder: Path, apart: Sequence[tuple[str, str, float, float]]) -> str:
    """How far both programs are from float64 where they are furthest from one another, in words."""
    if not apart:
        return f"no log-likelihood is further apart than {BAR}."
    import torch
    from transformers import AutoModelForCausalLM

    from hornbook.engine.pairing import joined
    from hornbook.llm import load

    taken = sorted(apart, key=lambda one: -abs(one[2] - one[3]))[:EXACTLY]
    with load(str(folder), device="cpu") as llm:
        asked = joined(llm.tokenizer, [(context, text) for context, text, _, _ in taken])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    far: list[tuple[float, float, int]] = []
    for (ids, start), (_, _, ours, theirs) in zip(asked, taken, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), logits_to_keep=len(ids) - start + 1).logits[0, :-1]
        exact = float(torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[start:])[:, None]).sum())
        far.append((abs(ours - exact), abs(theirs - exact), len(ids) - start))
    mine, other = max(one[0] for one in far), max(one[1] for one in far)
    shortest = min(one[2] for one in far)
    return (
        f"{len(apart)} log-likelihoods are further apart than {BAR}. The {len(far)} furthest of them, of {shortest} tokens and more, in "
        f"float64 by transformers: Hornbook is at most {mine:.1e} from that, the harness {other:.1e}."
    )


def golden(models: Sequence[str], kinds: Sequence[str], work: Path) -> None:
    """Keep what the harness finds of a hundred items of each kind, which a test holds our engine to."""
    import harness_samples as samples

    GOLDEN.mkdir(exist_ok=True)
    for model in models:
        folder, found = folder_of(model, work), {}
        for kind in kinds:
            given = samples.sample(DATA, kind, WRITTEN)
            judged = _theirs(model, folder, kind, given, work)
            found[kind] = samples.of_the_shortest(kind, given, judged, WRITTEN)
        path = GOLDEN / f"harness-{model.replace(':', '-')}.json"
        path.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")


def _kept(model: str, kind: str, count: int, work: Path) -> Path:
    return work / f"harness-{model.replace(':', '-')}-{kind}-{count}.json"


def _theirs(model: str, folder: Path, kind: str, given: Sequence[dict[str, Any]], work: Path) -> dict[str, list[Any]]:
    """What the harness finds; kept in the work folder."""
    import harness_samples as samples

    kept, whole = _kept(model, kind, len(given), work), samples.sample(DATA, kind)
    if len(whole) > len(given) and _kept(model, kind, len(whole), work).exists():
        return samples.of_the_shortest(kind, whole, _theirs(model, folder, kind, whole, work), len(given))
    if not kept.exists():
        began = time.monotonic()
        found = samples.judged_by_harness(samples.reference(folder, batch_size=16), samples.theirs(DATA, kind, given))
        kept.write_text(json.dumps(found), "utf-8")
        print(f"{model} {kind}: the harness took {time.monotonic() - began:.0f} s", flush=True)
    return samples.restored(json.loads(kept.read_text("utf-8")))


def _ours(folder: Path, given: dict[str, Sequence[dict[str, Any]]], work: Path) -> dict[str, Any]:
    import harness_samples as samples

    from hornbook.evals.run import run
    from hornbook.evals.task import Setting
    from hornbook.llm import load
    from hornbook.settings import Settings

    with (
        tempfile.TemporaryDirectory() as scratch,
        load(str(folder), device="cpu", settings=Settings(cache="float32")) as llm,
    ):
        tasks = [samples.ours(Path(scratch), DATA, kind, rows) for kind, rows in given.items()]
        began = time.monotonic()
        outcome = run(llm, tasks, setting=Setting(shots=0), folder=work / f"ours-{folder.name}", batch=256)
        print(f"{folder.name}: ours took {time.monotonic() - began:.0f} s, asked {outcome.asked}", flush=True)
    return {kind: samples.result_of(outcome, kind) for kind in given}


# ----------------------------------------------------------------------------------------------------------------- speed


def speed(models: Sequence[str], limit: int, work: Path, write: bool) -> None:
    table = [
        "| model | sample | items | lm-evaluation-harness | Hornbook, float32 | times as fast | Hornbook, the file as it is | times as fast |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for model in models:
        folder, file = folder_of(model, work), path_of(model)
        tried = {size: _once("harness", folder, TRIED, size)["seconds"] for size in BATCHES}
        best = min(tried, key=lambda size: tried[size])
        found = [
            _once("harness", folder, limit, best),
            _once("hornbook", folder, limit),
            _once("hornbook", file, limit),
        ]
        for kind in (*QUICK, "all"):
            theirs, mine, quantised = (one["seconds"] if kind == "all" else one["by_kind"][kind] for one in found)
            count = found[0]["items"] if kind == "all" else found[0]["counts"][kind]
            table.append(
                f"| {model} | {NAMES.get(kind, '**all**')} | {count} | {theirs:.1f} s | {mine:.1f} s | {theirs / mine:.2f} | "
                f"{quantised:.1f} s | {theirs / quantised:.2f} |"
            )
            print(table[-1], flush=True)
        right = ", ".join(f"{100 * one['accuracy']:.2f}" for one in found)
        notes.append(f"{model}: batches of {best} for the harness; accuracy over all {right} %.")
    _tell("speed", [*table, "", *notes], write)


def _once(program: str, model: Path, limit: int, batch: int = 0) -> dict[str, Any]:
    """A program's run over all kinds, in a process of its own."""
    command = [sys.executable, __file__, "once", program, str(model), str(limit), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def once(program: str, model: Path, limit: int, batch: int) -> dict[str, Any]:
    import harness_samples as samples

    shots = {kind: 5 if kind == "mmlu" else 0 for kind in QUICK}
    given = {kind: samples.first(DATA, kind, limit) for kind in QUICK}
    by_kind: dict[str, float] = {}
    began = time.monotonic()
    if program == "harness":
        reference = samples.reference(model, batch_size=batch, whole=True)
        tasks = {kind: samples.theirs(DATA, kind, given[kind], shots[kind]) for kind in QUICK}
        found = {}
        began = time.monotonic()
        for kind in QUICK:
            before = time.monotonic()
            found[kind] = samples.judged_by_harness(reference, tasks[kind])
            by_kind[kind] = time.monotonic() - before
    else:
        from hornbook.evals.run import run
        from hornbook.evals.task import Setting
        from hornbook.llm import load
        from hornbook.settings import Settings

        with (
            tempfile.TemporaryDirectory() as scratch,
            load(str(model), device="cpu", settings=Settings(cache="float32") if model.is_dir() else None) as llm,
        ):
            made = [samples.ours(Path(scratch), DATA, kind, given[kind]) for kind in QUICK]
            found = {}
            began = time.monotonic()
            for kind, task in zip(QUICK, made, strict=True):
                before = time.monotonic()
                outcome = run(llm, [task], setting=Setting(shots=shots[kind]), batch=256)
                found[kind] = samples.judged_by_us(samples.result_of(outcome, kind))
                by_kind[kind] = time.monotonic() - before
    seconds = time.monotonic() - began
    right = [one.grade["acc"] for several in found.values() for some in several.values() for one in some]
    counts = {kind: len(rows) for kind, rows in given.items()}
    accuracy = sum(right) / len(right)
    return {"seconds": seconds, "items": len(right), "accuracy": accuracy, "by_kind": by_kind, "counts": counts}


# ------------------------------------------------------------------------------------------------------------------ page


def _tell(name: str, table: Sequence[str], write: bool) -> None:
    packages = ", ".join(f"{one} {version(one)}" for one in ("lm-eval", "transformers", "torch"))
    stamp = f"Measured on {datetime.now(UTC):%Y-%m-%d} with {packages}, on {os.cpu_count()} cores."
    text = "\n".join([*table, "", stamp])
    print(text)
    if write:
        begin, end = f"<!-- {name}: begin, by benchmarks/evals.py -->", f"<!-- {name}: end -->"
        before, _, rest = PAGE.read_text("utf-8").partition(begin)
        assert rest, f"{PAGE} has no place for {name}"
        PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", "utf-8")


def main() -> None:
    if sys.argv[1:2] == ["once"]:
        program, model, limit, batch = sys.argv[2:]
        print(json.dumps(once(program, Path(model), int(limit), int(batch))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("parity", "speed", "golden"))
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--kinds", default=",".join(NAMES))
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "hornbook-evals")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    models = given.models.split(",")
    if given.what == "parity":
        parity(models, given.kinds.split(","), given.limit, given.work, given.write)
    elif given.what == "golden":
        golden(models, given.kinds.split(","), given.work)
    else:
        speed(models, given.limit or ITEMS, given.work, given.write)


if __name__ == "__main__":
    main()
