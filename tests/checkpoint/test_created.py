"""Created models point at weights in place, and say by name when those are gone or others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hornbook.checkpoint.created import CreatedModels
from hornbook.checkpoint.modelfile import parse
from hornbook.checkpoint.pointing import checked, point_at
from hornbook.errors import ModelFileError, ModelNotFound, OfflineError, TemplateError, UsageError
from hornbook.settings import Settings


@pytest.fixture
def weights(tmp_path: Path, smollm2_path: Path) -> Path:
    """The model's file, under a name of this test's own."""
    path = tmp_path / "my models" / "w.gguf"
    path.parent.mkdir()
    path.write_bytes(smollm2_path.read_bytes())
    return path


@pytest.fixture
def created(home: Path, smollm2_path: Path) -> CreatedModels:
    (home / "models").mkdir(parents=True)
    (home / "models" / smollm2_path.parent.name).symlink_to(smollm2_path.parent, target_is_directory=True)
    return CreatedModels(Settings.load(offline=True))


def test_a_created_model_points_at_the_stored_weights(created: CreatedModels, smollm2_path: Path) -> None:
    made = created.create(
        "team/terse:v1", parse("FROM smollm2:135m\nSYSTEM Be terse.\nPARAMETER stop a\nPARAMETER stop b")
    )
    assert created.get("team/terse:v1") == made
    assert made.base.sha256 == created.store.get("smollm2:135m").sha256
    assert created.entry(made).path.samefile(smollm2_path)
    assert sum(path.stat().st_size for path in created.folder.iterdir()) < 2000  # bytes: nothing was copied


def test_what_show_prints_creates_the_same_again(created: CreatedModels, weights: Path) -> None:
    (weights.parent / "Modelfile").write_text("x")
    text = 'FROM ./w.gguf\nPARAMETER temperature 0.5\nTEMPLATE """{{ .Prompt }}\n"""\nMESSAGE user "a\nb"\nLICENSE "  MIT"\n'
    first = created.create("one", parse(text), beside=weights.parent)
    second = created.create("two", parse(str(created.modelfile("one"))), beside=Path("/"))
    assert second.modelfile == first.modelfile
    assert second.digest == first.digest
    assert second.base == first.base
    assert str(weights) in str(first.modelfile)


def test_made_from_a_created_model_it_stands_alone(created: CreatedModels) -> None:
    created.create("base", parse("FROM smollm2:135m\nSYSTEM s\nPARAMETER top_k 3"))
    made = created.create("over", parse("FROM base\nPARAMETER top_k 4"))
    created.remove("base")
    assert created.get("over").modelfile == made.modelfile == parse("FROM smollm2:135m\nSYSTEM s\nPARAMETER top_k 4")
    assert made.parent == "base"
    assert created.users("smollm2:135m") == [made]


def test_weights_that_are_gone_or_others_are_named(created: CreatedModels, weights: Path) -> None:
    made = created.create("own", parse("FROM w.gguf"), beside=weights.parent)
    data = bytearray(weights.read_bytes())
    os.utime(weights, ns=(1, 1))  # another time, the same bytes
    assert created.entry(made).path == weights
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelFileError, match="SHA-256"):
        created.entry(made)
    weights.write_bytes(data[:1000])
    with pytest.raises(ModelFileError, match="1,000 bytes instead of 98,362,432"):
        created.entry(made)
    weights.unlink()
    with pytest.raises(ModelFileError, match=r"own points at .*w\.gguf"):
        created.entry(made)


def test_a_base_that_left_the_store_or_changed_is_named(created: CreatedModels, home: Path) -> None:
    made = created.create("own", parse("FROM smollm2:135m"))
    path = next(created.folder.glob("*.json"))
    data = json.loads(path.read_text())
    data["base"]["sha256"] = "0" * 64
    path.write_text(json.dumps(data))
    with pytest.raises(ModelFileError, match="Create own again"):
        created.entry(created.get("own"))
    next((home / "models").iterdir()).unlink()
    with pytest.raises(ModelFileError, match="smollm2:135m, which is not in the store"):
        created.entry(made)


def test_a_damaged_manifest_is_told_and_can_be_removed(created: CreatedModels) -> None:
    created.create("own", parse("FROM smollm2:135m"))
    path = next(created.folder.glob("*.json"))
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ModelFileError, match="cannot be read"):
        created.get("own")
    assert created.all() == []
    assert [broken.name for broken in created.damaged()] == [path.name]
    created.remove("own")
    assert created.damaged() == ()
    with pytest.raises(ModelNotFound):
        created.remove("own")


@pytest.mark.parametrize(
    ("name", "text", "error", "word"),
    [
        ("../up", "FROM smollm2:135m", UsageError, "name"),
        ("a:b:c", "FROM smollm2:135m", UsageError, "name"),
        ("kb:x", "FROM smollm2:135m", UsageError, "name"),
        ("smollm2:135m", "FROM smollm2:135m", UsageError, "store"),
        ("a", "FROM nothing", ModelNotFound, "nothing"),
        ("a", "FROM /etc/passwd", ModelNotFound, "not a path"),
        ("a", "FROM gemma3:270m", OfflineError, "offline"),
        ("a", "FROM smollm2:135m\nADAPTER /etc", UsageError, "ADAPTER"),
        ("a", "FROM smollm2:135m\nTEMPLATE {{ .Nothing }}", TemplateError, ".Nothing"),
        ("a", "FROM smollm2:135m\nTEMPLATE {% if %}", TemplateError, "chat template"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(
    created: CreatedModels, name: str, text: str, error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        created.create(name, parse(text))
    assert not created.folder.exists() or not list(created.folder.iterdir())


def test_a_file_that_is_no_model_is_refused(created: CreatedModels, tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("hello")
    with pytest.raises(ModelFileError, match=r"notes\.gguf"):
        created.create("a", parse("FROM ./notes.gguf"), beside=tmp_path)


def test_many_at_once_leave_one_whole_model(created: CreatedModels) -> None:
    code = (
        "from hornbook.checkpoint.created import *\nfrom hornbook.settings import Settings\nimport sys\n"
        "made = CreatedModels(Settings.load(offline=True))\n"
        "for n in range(10): made.create('one', parse(f'FROM smollm2:135m\\nSYSTEM {sys.argv[1]} {n}'))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in range(2)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        seen += created.find("one") is not None  # raises where it is half written
    assert [writer.wait() for writer in writers] == [0, 0]
    assert seen
    assert created.get("one").modelfile.system in ("0 9", "1 9")
    assert len(list(created.folder.iterdir())) == 1


def test_files_that_were_sent_go_with_what_needed_them(created: CreatedModels, weights: Path) -> None:
    created.blobs.mkdir(parents=True)
    blob = created.blobs / f"sha256-{'a' * 64}"
    old, new = created.blobs / f"sha256-{'b' * 64}", created.blobs / "upload-x"
    weights.rename(blob)
    old.write_text("nothing was made of this")
    new.write_text("this is coming")
    os.utime(old, (1, 1))
    made = [created.create(name, parse(f"FROM {blob}")) for name in ("one", "two")]
    assert created.entry(made[0]).path == blob
    assert (old.exists(), new.exists()) == (False, True)
    created.remove("one")
    assert blob.exists()
    created.remove("two")
    assert not blob.exists()


def test_a_folder_is_a_model_too_and_what_else_lies_there_is_not(
    created: CreatedModels, minilm_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my-encoder"
    shutil.copytree(minilm_path, folder)
    (folder / "photos").mkdir()
    (folder / "photos" / "one").write_text("x")
    made = created.create("encoder", parse("FROM ."), beside=folder)
    (folder / "photos" / "two").write_text("y")
    (folder / "Modelfile").write_text("FROM .")
    entry = created.entry(made)
    assert (entry.kind, entry.path) == ("embedder", folder)
    assert entry.name == f"my-encoder@{made.base.sha256[:12]}"
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes()[:-1] + b" ")
    with pytest.raises(ModelFileError, match="encoder points at"):
        created.entry(made)


def test_all_files_of_a_model_in_several_count(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_text("abc")
    first = tmp_path / "m-00001-of-00002.gguf"
    target = point_at(first, None)
    assert target.size == 6
    assert checked(target, "m", "FROM") == first
    (tmp_path / "m-00002-of-00002.gguf").write_text("abd")
    os.utime(tmp_path / "m-00002-of-00002.gguf", (5e9, 5e9))
    with pytest.raises(ModelFileError, match="SHA-256"):
        checked(target, "m", "FROM")
