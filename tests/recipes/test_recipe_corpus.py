"""A corpus is made from raw files, the same with any number of processes and however often the work is broken off."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import psutil
import pytest
import zstandard

from hornbook.data.private import KINDS
from hornbook.data.read import Source, read
from hornbook.errors import DataError, StoreError, UsageError
from hornbook.recipes import corpus as module
from hornbook.recipes.corpus import Corpus, read_recipe, run

RECIPE = Path(__file__).parents[2] / "recipes" / "corpus.yaml"
FILES = ("train.jsonl.zst", "validation.jsonl.zst")


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    with (folder / f"{name}.jsonl.zst").open("rb") as file:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8").read()
    return [json.loads(line) for line in text.splitlines()]


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.jsonl"
    words = ["alpha", "beta", "gamma", "delta", "the", "of", "and", "to", "sigma", "omega", "kappa"]
    rows = [
        {"text": " ".join(f"{words[(i * j + j) % 11]}{i * j % 97}" for j in range(60)) + "."} for i in range(1, 200)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def asked(raw: Path, **more: Any) -> Corpus:
    return Corpus.model_validate(
        {"sources": [{"path": str(raw)}], "quality": None, "workers": 1, "validation": 0.1, **more}
    )


def test_the_bundled_recipe_takes_out_one_of_each_kind(tmp_path: Path) -> None:
    made = run(read_recipe(str(RECIPE), ["workers=1"]), tmp_path / "out")
    gone = made.ledger.gone
    for reason in (
        "duplicate.exact",
        "duplicate.near",
        "language.de",
        "contamination.questions",
        "quality.c4.lorem-ipsum",
    ):
        assert gone[reason].examples >= 1, reason
    assert {"repair.mojibake", "private.EMAIL", "private.PHONE"} <= made.ledger.changed.keys()
    kept = [row["text"] for name in ("train", "validation") for row in lines(made.folder, name)]
    assert made.ledger.read.examples == len(kept) + sum(count.examples for count in gone.values())
    assert any("café in the old town serves crêpes" in text for text in kept)
    assert any("write to [EMAIL] or call [PHONE]" in text for text in kept)
    assert sum("图书馆" in text for text in kept) == sum("時計屋" in text for text in kept) == 1
    assert len(kept) == len(set(kept))
    account = json.loads((made.folder / "account.json").read_text("utf-8"))
    sample = account["gone"]["contamination.questions"]["samples"][0]
    assert sample["place"].endswith("raw.jsonl, line 17") and "item 1" in sample["detail"]
    assert "like " in account["gone"]["duplicate.near"]["samples"][0]["detail"]
    assert "contamination.questions" in (made.folder / "report.html").read_text("utf-8")
    assert sorted(path.name for path in made.folder.iterdir()) == sorted(
        [*FILES, "account.json", "corpus.yaml", "report.html"]
    )
    again = run(read_recipe(str(made.folder / "corpus.yaml"), []), tmp_path / "again")
    assert bytes_of(again.folder) == bytes_of(made.folder), "the resolved recipe makes the same corpus"


def test_what_was_broken_off_goes_on_to_the_same_bytes(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 1)  # a part for each 64 examples
    recipe = asked(raw, malformed="skip")
    with raw.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    whole = run(recipe, tmp_path / "whole")

    def stop(at: tuple[str, int], what: str, done: int, total: int) -> None:
        if (what, done) == at:
            raise KeyboardInterrupt

    for at in (("cleaning", 64), ("cleaning", 128), ("writing", 0)):
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "broken", partial(stop, at))
        assert not (tmp_path / "broken" / "account.json").exists()
    cleaned: list[int] = []
    made = run(
        recipe, tmp_path / "broken", lambda what, done, total: cleaned.append(done) if what == "cleaning" else None
    )
    assert cleaned == [], "everything was cleaned before"
    assert bytes_of(made.folder) == bytes_of(whole.folder)
    assert made.ledger.as_dict() == whole.ledger.as_dict() and made.ledger.malformed_lines == 1
    assert not run(recipe, tmp_path / "broken").fresh


SLOW = """
import sys, time
import hornbook.recipes.corpus as module
from pathlib import Path
if __name__ == "__main__":
    module.PART = 1
    module.run(module.read_recipe(sys.argv[1], []), Path(sys.argv[2]), lambda *_: time.sleep(1))
"""


def test_a_killed_run_leaves_no_process_and_goes_on_to_the_same_bytes(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, script, out = tmp_path / "recipe.yaml", tmp_path / "slow.py", tmp_path / "out"
    recipe.write_text("sources: [{path: raw.jsonl}]\nquality: null\nvalidation: 0.1\nworkers: 2\n", "utf-8")
    script.write_text(SLOW, "utf-8")
    process = subprocess.Popen([sys.executable, str(script), str(recipe), str(out)])
    until = time.monotonic() + 60
    while not (out / ".work" / "part-00001.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(children) >= 2 and not psutil.wait_procs(children, timeout=20)[1]
    assert not (out / "account.json").exists()
    monkeypatch.setattr(module, "PART", 1)
    assert bytes_of(run(read_recipe(str(recipe), []), out).folder) == bytes_of(
        run(asked(raw), tmp_path / "whole").folder
    )


def test_a_finished_corpus_is_not_written_over_and_a_strange_folder_is_left_alone(raw: Path, tmp_path: Path) -> None:
    run(asked(raw), tmp_path / "out")
    with pytest.raises(UsageError, match="another recipe"):
        run(asked(raw, seed=1), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="not empty"):
        run(asked(raw), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    with filelock.FileLock(tmp_path / "mine" / ".lock"), pytest.raises(UsageError, match="another process"):
        run(asked(raw), tmp_path / "mine")
    raw.write_text(raw.read_text() + '{"text": "one more"}\n')
    with pytest.raises(UsageError, match="other files"):
        run(asked(raw), tmp_path / "out")


def test_the_account_shows_nothing_private(raw: Path, tmp_path: Path) -> None:
    with raw.open("a", encoding="utf-8") as file:
        file.write(
            '{"text": "Schreiben Sie uns bitte bald wieder an anna@example.org, wir freuen uns sehr darauf."}\n{ring 415-555-2671\n'
        )
    made = run(asked(raw, languages=["en"], malformed="skip"), tmp_path / "out")
    assert made.ledger.gone["language.de"].examples == 1 and made.ledger.malformed_lines == 1
    for name in ("account.json", "report.html"):
        page = (made.folder / name).read_text("utf-8")
        assert "anna@example.org" not in page and "415-555-2671" not in page and "[EMAIL]" in page and "[PHONE]" in page


def test_no_document_is_on_both_sides_and_counts_are_kept(raw: Path, tmp_path: Path) -> None:
    made = run(asked(raw, validation=7), tmp_path / "out")
    train, validation = lines(made.folder, "train"), lines(made.folder, "validation")
    assert len(validation) == 7 and not {row["text"] for row in train} & {row["text"] for row in validation}
    assert len(list(read([Source(str(made.folder / FILES[0]))]))) == len(train)
    assert not lines(run(asked(raw, validation=0), tmp_path / "none").folder, "validation")


def test_what_cannot_work_is_refused_before_anything_is_done(raw: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{broken\n', "utf-8")
    with pytest.raises(DataError, match="line 2"):
        run(asked(bad), tmp_path / "a")
    with pytest.raises(DataError, match="none of 199 examples"):
        run(asked(raw, languages=["zh"], unknown_language="drop"), tmp_path / "b")
    with pytest.raises(UsageError, match="evaluation file"):
        run(asked(raw, evaluation=["missing.jsonl"]), tmp_path / "c")
    with pytest.raises(DataError, match="held out"):
        run(asked(raw, validation=500), tmp_path / "d")
    with pytest.raises(UsageError, match="gopher.wrds"):
        run(asked(raw, quality={"rules": ["gopher.wrds"]}), tmp_path / "e")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        run(asked(raw), tmp_path / "file" / "f")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sources: [{path: raw.jsonl}]\nlanguage: [en]\n", "utf-8")
    with pytest.raises(UsageError, match="language") as refused:
        read_recipe(str(recipe), [])
    assert "languages" in refused.value.remedy
    with pytest.raises(UsageError, match="no recipe"):
        read_recipe("missing.yaml", [])


def test_paths_in_the_file_are_from_there_and_keys_on_the_line_win(raw: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sources:\n  - path: raw.jsonl\nquality: null\nprivate: [EMAIL]\n", "utf-8")
    found = read_recipe(str(recipe), ["validation=3", "duplicates.near=false", "languages=[en]"])
    assert found.sources[0].path == str(raw) and found.validation == 3 and not found.duplicates.near
    made = run(found.model_copy(update={"workers": 1, "languages": []}), tmp_path / "out")
    assert len(lines(made.folder, "validation")) == 3


def test_tokens_are_counted_by_a_tokenizer(raw: Path, tmp_path: Path) -> None:
    from hornbook.text.train_tokenizer import train

    tokenizer = train([raw.read_text("utf-8")], size=300)
    tokenizer.save(tmp_path / "tokenizer")
    made = run(asked(raw, tokenizer=str(tmp_path / "tokenizer")), tmp_path / "out")
    train_rows = lines(made.folder, "train")
    assert made.ledger.kept["train"].tokens == sum(tokenizer.count(row["text"]) for row in train_rows)


def test_the_page_tells_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "corpus.md").read_text("utf-8")
    for name in Corpus.model_fields.keys() - {"recipe"}:
        assert f"| {name} |" in page, name
    for part in (module.Source, module.QualityRules, module.Duplicates):
        for name in part.model_fields:
            assert f"`{name}`" in page or f"`{name} " in page, name
    for kind in KINDS:
        assert f"`[{kind}]`" in page


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "corpus.md").read_text("utf-8")
    (tmp_path / "recipes").symlink_to(root / "recipes", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example, names)
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()
    assert list(names["new"].pieces) == [names["tokenizer"].vocab_size]
    recipe = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]
    (tmp_path / "page.yaml").write_text(recipe, "utf-8")
    assert read_recipe("page.yaml", []).quality is not None
