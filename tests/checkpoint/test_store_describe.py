"""What a model says of itself in its header: kind, licence, facts; and files that say nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf_writer import ARRAY, STRING, U32, write_gguf

from hornbook.checkpoint.describe import describe, kind_of
from hornbook.checkpoint.store import Store
from hornbook.settings import Settings
from model_servers import Served, index, make_wheel

__all__ = ["index"]  # a fixture

LLAMA = [
    ("general.architecture", STRING, "llama"),
    ("general.name", STRING, "小模型"),
    ("general.license", STRING, "llama3.2"),
    ("general.file_type", U32, 15),
    ("llama.context_length", U32, 4096),
    ("tokenizer.chat_template", STRING, "{{ messages }}"),
]
TENSORS = [("token_embd.weight", (4, 3), 0, b"\0" * 48), ("output_norm.weight", (4,), 0, b"\0" * 16)]


def written(path: Path, metadata: list[tuple[str, Any, Any]]) -> Path:
    path.write_bytes(bytes(write_gguf(metadata, TENSORS).data))
    return path


def test_a_gguf_file_tells_its_facts(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", LLAMA)
    assert describe(path) == {
        "format": "gguf",
        "title": "小模型",
        "architecture": "llama",
        "parameters": 16,
        "context_length": 4096,
        "quantisation": "Q4_K_M",
        "chat_template": True,
        "licence": "llama3.2",
    }
    assert kind_of(path) == "llm"
    assert kind_of(written(tmp_path / "b.gguf", [("general.architecture", STRING, "nomic-bert")])) == "embedder"
    assert kind_of(written(tmp_path / "n.gguf", [])) == "unknown"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "[" * 100_000),
        ("config.json", '{"text_config": 3}'),
        ("model.safetensors", "\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f"),
        ("model.safetensors", "\x01\0\0\0\0\0\0\0["),
        ("tokenizer_config.json", "\x00"),
    ],
)
def test_a_folder_of_nonsense_is_a_problem_and_no_crash(tmp_path: Path, name: str, body: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text(body)
    assert set(describe(tmp_path)) == {"problem"}
    assert kind_of(tmp_path) == "unknown"


def test_facts_of_the_wrong_type_are_left_out(tmp_path: Path) -> None:
    strange = [
        ("general.architecture", STRING, "llama"),
        ("general.name", U32, 7),
        ("general.license", (ARRAY, STRING), ["mit"]),
        ("general.file_type", STRING, "best"),
        ("llama.context_length", (ARRAY, U32), [1, 2]),
    ]
    facts = describe(written(tmp_path / "m.gguf", strange))
    assert set(facts) == {"format", "architecture", "parameters", "quantisation", "chat_template"}
    assert facts["quantisation"] == "F32"


def test_the_models_own_licence_beats_that_of_its_wheel(index: Served, home: Path, tmp_path: Path) -> None:
    body = written(tmp_path / "m.gguf", LLAMA).read_bytes()
    make_wheel(index.folder, "wrapped", "1.0", {"w/m.gguf": body}, headers=["License: MIT"])
    entry = Store(Settings.load()).pull("pypi:wrapped")
    assert (entry.licence, entry.kind) == ("llama3.2", "llm")
