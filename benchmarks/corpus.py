"""How fast and how well a corpus is made: the pipeline, near duplicates, contamination, tokenizers, new tokens.

    python benchmarks/corpus.py [--only pipeline,languages,duplicates,contamination,tokenizers,extension] [--quick] [--write]

pipeline       real documents of three languages and chats: what each step costs, and documents a second with 1 and 2 processes
languages      one sentence in 31 languages: told right, unknown, wrong
duplicates     real documents with 1 to 40 in 100 words changed: found, beside the published curve; wrong finds among others;
               and how long clusters of 100,000 signatures take
contamination  items of 4 real evaluation sets put into documents; other documents hold none
tokenizers     bytes a token on held-out text of three languages, beside the tokenizers library's own Unigram trainer
extension      500 Chinese merges for SmolLM2-135M: loss a character of held-out Chinese, from pieces, mean and chance,
               before any step and after some steps of training (needs the model in the store)

--write puts the tables into docs/results/corpus.md. --quick takes less of everything, to see that it runs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HORNBOOK_DATA", ROOT.parent / "shared" / "data"))
PAGE = ROOT / "docs" / "results" / "corpus.md"
BEGIN, END = "<!-- corpus: begin, by benchmarks/corpus.py -->", "<!-- corpus: end -->"


def lines(name: str) -> list[str]:
    with gzip.open(DATA / "lm_text" / f"{name}.txt.gz", "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


def web() -> list[str]:
    with gzip.open(DATA / "lm_text" / "c4_demo_en.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def chinese() -> list[str]:
    return [line for line in lines("cmrc_trial_contexts_zh") if line.strip()]


def japanese() -> list[str]:
    novel = lines("wagahai_ja")
    return ["\n".join(novel[i : i + 10]) for i in range(0, len(novel), 10)]


def documents() -> dict[str, list[str]]:
    return {"English web pages": web(), "Chinese paragraphs": chinese(), "Japanese novel": japanese()}


def table(headers: list[str], rows: list[list[str]]) -> str:
    return "\n".join([f"| {' | '.join(row)} |" for row in (headers, ["---"] * len(headers), *rows)])


def spent(work: Callable[[str], object], texts: list[str], least: float) -> float:
    """Seconds a text of this process's time, over whole rounds."""
    work(texts[0])
    began, rounds = time.process_time(), 0
    while not rounds or time.process_time() - began < least:
        for text in texts:
            work(text)
        rounds += 1
    return (time.process_time() - began) / rounds / len(texts)


# ---------------------------------------------------------------------------------------------------------- pipeline


def pipeline(quick: bool) -> Iterator[str]:
    from hornbook.data.cleaning import Cleaning, clean
    from hornbook.data.contamination import Contamination, texts_of_items
    from hornbook.data.duplicates import MinHash
    from hornbook.data.example import Text
    from hornbook.data.language import identify
    from hornbook.data.private import scrub
    from hornbook.data.quality import Quality
    from hornbook.data.repair import repair
    from hornbook.recipes.corpus import Corpus, run

    gsm8k = Contamination.of({"gsm8k": texts_of_items(DATA / "reasoning" / "gsm8k_test.jsonl.gz")})
    quality, minhash = Quality(), MinHash()
    everything = Cleaning(quality=quality, contamination=gsm8k)
    steps: dict[str, Callable[[str], object]] = {
        "repair": repair,
        "language": identify,
        "quality": lambda text: quality.refuse(text, "unknown"),
        "signature": minhash.signature,
        "contamination": gsm8k.find,
        "private": scrub,
        "all, with what they share": lambda text: clean(Text(text), everything),
    }
    sets, least = documents(), 0.2 if quick else 2.0
    rows = []
    for name, work in steps.items():
        rows.append([name, *(f"{spent(work, texts, least) * 1e6:,.0f}" for texts in sets.values())])
    sizes = [f"{sum(map(len, texts)) / len(texts):,.0f}" for texts in sets.values()]
    yield "Microseconds a document of one process, by step:\n"
    yield table(["", *sets], [["characters a document", *sizes], *rows])
    times = 2 if quick else 12
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "raw.jsonl"
        chance = random.Random(0)
        with source.open("w", encoding="utf-8") as file:
            for _ in range(times):
                for text in (text for texts in sets.values() for text in texts):
                    words = text.split(" ")
                    chance.shuffle(words)  # so that none is the duplicate of another
                    file.write(json.dumps({"text": " ".join(words)}) + "\n")
        sets_of = [str(DATA / "reasoning" / f"{name}.jsonl.gz") for name in ("gsm8k_test", "mmlu_test_sample")]
        rows = []
        for workers in (1, 2):
            recipe = {"sources": [{"path": str(source)}], "evaluation": sets_of, "workers": workers}
            began = time.perf_counter()
            made = run(Corpus.model_validate(recipe), Path(folder) / f"out-{workers}")
            seconds, read = time.perf_counter() - began, made.ledger.read
            megabytes = source.stat().st_size / 1e6
            rows.append(
                [
                    str(workers),
                    f"{read.examples:,}",
                    f"{seconds:.1f}",
                    f"{read.examples / seconds:,.0f}",
                    f"{megabytes / seconds:.2f}",
                ]
            )
    yield "\nThe whole recipe, from raw.jsonl to both files, reading, clusters and starting of processes included:\n"
    yield table(["processes", "documents", "seconds", "documents a second", "MB a second"], rows)


# --------------------------------------------------------------------------------------------------------- languages

CODES = {
    "Arabic": "ar", "Bengali": "bn", "Bulgarian": "bg", "Chinese": "zh", "Czech": "cs", "Danish": "da", "Dutch": "nl", "English": "en",
    "Finnish": "fi", "French": "fr", "German": "de", "Greek": "el", "Hebrew": "he", "Hindi": "hi", "Hungarian": "hu", "Indonesian": "id",
    "Italian": "it", "Japanese": "ja", "Korean": "ko", "Polish": "pl", "Portuguese": "pt", "Romanian": "ro", "Russian": "ru",
    "Spanish": "es", "Swahili": "sw", "Swedish": "sv", "Tamil": "ta", "Thai": "th", "Turkish": "tr", "Ukrainian": "uk", "Vietnamese": "vi",
}  # fmt: skip


def languages(quick: bool) -> Iterator[str]:
    from hornbook.data.language import identify

    text = [line.strip() for line in lines("udhr_first_article_all")]
    named = [(line.removeprefix("(").removesuffix(")"), after) for line, after in pairwise(text) if line and after]
    known = [(name, article) for name, article in named if name.split(",")[0].split(" ")[0] in CODES]
    rows = []
    for width in (10_000, 60, 30):
        told = [
            (name, CODES[name.split(",")[0].split(" ")[0]], identify(article[:width]).code) for name, article in known
        ]
        wrong = [f"{name}: {code}" for name, right, code in told if code not in (right, "unknown")]
        unknown = sum(code == "unknown" for _, _, code in told)
        said = "whole" if width > 1000 else f"first {width} characters"
        rows.append([said, str(len(told)), str(len(told) - len(wrong) - unknown), str(unknown), "; ".join(wrong)])
    yield "The first article of the Universal Declaration of Human Rights, in the languages and spellings that the names below begin:\n"
    yield table(["of the article", "texts", "right", "unknown", "wrong"], rows)
    yield f"\n({', '.join(CODES)}.)"


# -------------------------------------------------------------------------------------------------------- duplicates


def duplicates(quick: bool) -> Iterator[str]:
    from hornbook.data.duplicates import MinHash, clusters, similarity

    minhash, chance = MinHash(), random.Random(7)
    bands, rows_of = minhash.bands
    originals = [text for text in web() if len(text.split()) >= 80][: 40 if quick else 100]
    han = [text for text in chinese() if len(text) > 200][: 40 if quick else 100]
    letters = sorted({letter for text in han for letter in text})
    vocabulary = sorted({word for text in originals for word in text.split()})
    found: dict[str, dict[float, list[tuple[bool, bool]]]] = {}
    for name, texts, pool in (
        ("English", [text.split() for text in originals], vocabulary),
        ("Chinese", [list(text) for text in han], letters),
    ):
        glue = " " if name == "English" else ""
        bins: dict[float, list[tuple[bool, bool]]] = {}
        signatures = [minhash.signature(glue.join(words)) for words in texts]
        sets = [set(minhash.shingles(glue.join(words)).tolist()) for words in texts]
        for words, signature, own in zip(texts, signatures, sets, strict=True):
            for share in (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1):
                made = list(words)
                for place in chance.sample(range(len(made)), max(round(share * len(made)), 1)):
                    made[place] = chance.choice(pool)
                text = glue.join(made)
                other, theirs = minhash.signature(text), set(minhash.shingles(text).tolist())
                true = len(own & theirs) / len(own | theirs)
                agree = (signature == other)[: bands * rows_of].reshape(bands, rows_of).all(1).any()
                kept = bool(agree) and float(similarity(signature, other)) >= minhash.threshold
                bins.setdefault(min(int(true * 10), 9) / 10, []).append((bool(agree), kept))
        found[name] = bins
    rows = []
    for low in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        expected = np.mean([minhash.probability(low + (i + 0.5) / 100) for i in range(10)])
        row = [f"{low:.1f} to {low + 0.1:.1f}", f"{expected:.2f}"]
        for bins in found.values():
            pairs = bins.get(low, [])
            row += (
                [f"{np.mean([a for a, _ in pairs]):.2f}", f"{np.mean([k for _, k in pairs]):.2f}", str(len(pairs))]
                if pairs
                else ["", "", "0"]
            )
        rows.append(row)
    yield f"128 hash functions in {bands} bands of {rows_of}, threshold 0.8, runs of 5 words or 10 characters; real documents with words or characters exchanged:\n"
    yield table(
        [
            "true similarity",
            "candidates by the formula",
            "English: candidates",
            "found",
            "pairs",
            "Chinese: candidates",
            "found",
            "pairs",
        ],
        rows,
    )
    unlike = originals + han
    roots = clusters(np.stack([minhash.signature(text) for text in unlike]), minhash)
    yield f"\nAmong {len(unlike)} different documents, {int((roots != np.arange(len(roots))).sum())} were taken for duplicates."
    count = 10_000 if quick else 100_000
    drawn = np.random.default_rng(0).integers(0, 2**32, (count, 128), dtype=np.uint32)
    copies = drawn[: count // 10].copy()
    copies[:, ::16] = 0  # 8 of 128 values differ
    began = time.perf_counter()
    roots = clusters(np.concatenate([drawn, copies]), minhash)
    seconds = time.perf_counter() - began
    hit = (roots[count:] == np.arange(len(copies))).mean()
    yield f"\nClusters of {count + len(copies):,} signatures, of which {len(copies):,} are near copies (similarity 0.94): {seconds:.1f} s, {hit:.1%} of the copies found."


# ----------------------------------------------------------------------------------------------------- contamination


def contamination(quick: bool) -> Iterator[str]:
    from hornbook.data.contamination import Contamination, texts_of_items

    pages, rows = web(), []
    for name in ("gsm8k_test", "mmlu_test_sample", "arc_challenge", "cmrc2018_trial_qa_zh"):
        items = list(texts_of_items(DATA / "reasoning" / f"{name}.jsonl.gz"))
        held = Contamination.of({name: items})
        long = [max(texts, key=len) for texts in items][: 50 if quick else 300]
        inside = sum(held.find(f"{pages[i % len(pages)]}\n{text.upper()}") is not None for i, text in enumerate(long))
        others = pages + (chinese() if "zh" not in name else japanese())
        wrong = sum(held.find(text) is not None for text in others)
        kept = held.sets[name]
        rows.append(
            [
                name,
                f"{kept.items:,}",
                f"{kept.short:,}",
                f"{kept.runs:,}",
                f"{inside / len(long):.1%}",
                f"{wrong} of {len(others)}",
            ]
        )
    yield "Each item's longest text in upper case put behind a web page; and documents that hold none:\n"
    yield table(["set", "items", "too short to look for", "runs", "found", "other documents taken out"], rows)


# -------------------------------------------------------------------------------------------------------- tokenizers


def tokenizers(quick: bool) -> Iterator[str]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from hornbook.text.train_tokenizer import train

    share, size = (0.3, 4500) if quick else (0.6, 8000)
    sets = {"English": lines("botchan_en"), "Chinese": chinese(), "Japanese": lines("wagahai_ja")}
    learnt = [line for texts in sets.values() for line in texts[: int(len(texts) * share)]]
    held = {name: texts[int(len(texts) * 0.9) :] for name, texts in sets.items()}

    def row(name: str, count: Callable[[str], int], seconds: float) -> list[str]:
        rate = [sum(len(line.encode()) for line in texts) / sum(map(count, texts)) for texts in held.values()]
        return [name, f"{seconds:.1f}", *(f"{value:.2f}" for value in rate)]

    rows = []
    for kind, roles in (("bpe", "llama"), ("bpe", "gpt2"), ("wordpiece", "bert"), ("unigram", "t5")):
        began = time.perf_counter()
        made = train(learnt, kind=kind, size=size, roles=roles)  # type: ignore[arg-type]
        rows.append(row(f"{kind}, {roles}", lambda line, made=made: made.count(line), time.perf_counter() - began))
    began = time.perf_counter()
    theirs = Tokenizer(models.Unigram())
    theirs.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    theirs.train_from_iterator(
        learnt,
        trainers.UnigramTrainer(
            vocab_size=size - 256, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        ),
    )
    rows.append(row("tokenizers' own Unigram", lambda line: len(theirs.encode(line).ids), time.perf_counter() - began))
    yield f"{size:,} tokens at most, trained on {sum(map(len, learnt)) / 1e6:.1f} million characters of three languages; bytes a token on the last tenth of each:\n"
    yield table(["", "seconds to train", *sets], rows)
    yield "\n(WordPiece writes letters it has not kept as [UNK], and the library's Unigram, which here has all letters of its text, unseen ones: both count as one token.)"


# --------------------------------------------------------------------------------------------------------- extension


def extension(quick: bool) -> Iterator[str]:
    import torch
    from torch.nn.functional import cross_entropy

    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.store import Store
    from hornbook.settings import Settings
    from hornbook.text.extend import grow, resize
    from hornbook.text.tokenizer import Tokenizer

    steps, width, rows_of = (1, 32, 2) if quick else (12, 128, 4)
    texts = chinese()
    cut = int(len(texts) * 0.9)
    path = Store(Settings.load()).ensure("smollm2:135m").path

    def batches(tokenizer: Tokenizer, part: list[str]) -> torch.Tensor:
        ids = [id for text in part for id in tokenizer.encode(text, add_special=False)]
        return torch.tensor(ids[: len(ids) // width * width]).view(-1, width)

    def loss(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model(rows).logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())

    @torch.no_grad()
    def nats(model: torch.nn.Module, tokenizer: Tokenizer, part: list[str]) -> float:
        rows = batches(tokenizer, part)[: 4 if quick else 16]
        letters = sum(len(tokenizer.decode(row[1:].tolist())) for row in rows)
        total = sum(float(loss(model, rows[i : i + 4])) * rows[i : i + 4, 1:].numel() for i in range(0, len(rows), 4))
        return total / letters

    found = load(path, dtype="float32", device="cpu")
    old, held = found.tokenizer, texts[cut:]
    new = grow(old, texts[:cut], 500)
    lengths = [sum(map(t.count, held)) for t in (old, new.tokenizer)]
    yield f"Tokens of the held-out Chinese text: {lengths[0]:,} before, {lengths[1]:,} with 500 merges more.\n"
    rows = [["none (the old vocabulary)", f"{nats(found.model, old, held):.3f}", ""]]
    for start in ("pieces", "mean", "random"):
        model = deepcopy(found.model)
        resize(model, new, start=start, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
        before = nats(model, new.tokenizer, held)
        data = batches(new.tokenizer, texts[:cut])
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(2))
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.0)
        for step in range(steps):
            rows_now = data[order[step * rows_of % len(data) :][:rows_of]]
            optimizer.zero_grad()
            loss(model, rows_now).backward()
            optimizer.step()
        rows.append([start, f"{before:.3f}", f"{nats(model, new.tokenizer, held):.3f}"])
    yield table(
        [
            "new rows from",
            "loss a character, no training",
            f"after {steps} steps of {steps and rows_of * width} tokens",
        ],
        rows,
    )


PARTS: dict[str, tuple[str, Callable[[bool], Iterator[str]]]] = {
    "pipeline": ("The pipeline", pipeline),
    "languages": ("Languages", languages),
    "duplicates": ("Near duplicates", duplicates),
    "contamination": ("Contamination", contamination),
    "tokenizers": ("Tokenizers", tokenizers),
    "extension": ("New tokens for SmolLM2-135M", extension),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    said: list[str] = []
    for name in given.only.split(","):
        title, part = PARTS[name]
        began = time.perf_counter()
        text = "\n".join(part(given.quick))
        print(f"\n## {title}\n\n{text}", flush=True)
        print(f"({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)
        said.append(f"## {title}\n\n{text}\n")
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "tokenizers", "ftfy", "py3langid"))
    said.append(
        f"Machine: {platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {packages}.\n"
    )
    if given.quick:
        said.append("Made with --quick: less of everything, on a machine that was busy.\n")
    if given.write:
        page = PAGE.read_text("utf-8")
        before, rest = page.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(said) + f"{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    main()
