"""``hornbook create``, ``cp``, ``show --modelfile`` and what ``list`` and ``rm`` do with created models."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import hornbook
from hornbook.text.go_chat import template_of
from hornbook.types import Message, SamplingParams


@pytest.fixture
def run(run_here: Any, home: Path, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command in this process, in a home that has SmolLM2. ``stdin``: what it reads; ``code``: how it must end."""
    (home / "models").mkdir(parents=True)
    (home / "models" / smollm2_path.parent.name).symlink_to(smollm2_path.parent, target_is_directory=True)
    monkeypatch.setenv("HORNBOOK_OFFLINE", "1")

    def run(*words: str, stdin: str = "", code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        ended, out, err = run_here(*words)
        assert ended == code, err
        return out, err

    return run


def test_a_model_is_created_shown_created_again_copied_and_removed(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "Modelfile"
    file.write_text("FROM smollm2:135m\nSYSTEM Réponds en français.\nPARAMETER temperature 0\n", "utf-8")
    assert "is made from smollm2:135m" in run("create", "french", "-f", str(file))[1]
    shown = run("show", "french", "--modelfile")[0]
    assert shown == 'FROM smollm2:135m\nPARAMETER temperature 0\nSYSTEM """Réponds en français."""\n'
    again = json.loads(run("create", "again", "-f", "-", "--json", stdin=shown)[0])
    assert again["modelfile"] == shown
    run("cp", "french", "paris")
    listed = json.loads(run("list", "--json")[0])
    assert [one["name"] for one in listed["created"]] == ["again", "french", "paris"]
    assert json.loads(run("show", "paris", "--json")[0])["created"]["parent"] == "smollm2:135m"
    assert "paris" in run("list")[0]
    assert (
        "paris is a created model"
        in run("export", "paris", "--to", "gguf", "--output", str(tmp_path / "x.gguf"), code=2)[1]
    )
    run("rm", "french", "again", "paris")
    assert json.loads(run("list", "--json")[0])["created"] == []


GO = """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}<|im_start|>user
Q: {{ .Prompt }}<|im_end|>
<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
SHOUT = """SYSTEM Be brief.
PARAMETER num_predict 6
PARAMETER temperature 0.9
PARAMETER top_k 20
PARAMETER top_p 0.9
PARAMETER seed 3
PARAMETER repeat_penalty 1.2
MESSAGE user Hi
MESSAGE assistant Yes.
"""


def test_run_and_chat_ask_a_created_model_as_its_modelfile_says(run: Any, smollm2_path: Path) -> None:
    """Its answers are those of the base to what SYSTEM, MESSAGE and TEMPLATE make of the prompt, drawn by its PARAMETERs."""
    run("create", "plain", "-f", "-", stdin=f"FROM smollm2:135m\n{SHOUT}")
    run("create", "go", "-f", "-", stdin=f'FROM plain\nTEMPLATE """{GO}"""\n')
    drawn = SamplingParams(max_tokens=6, temperature=0.9, top_k=20, top_p=0.9, seed=3, repetition_penalty=1.2)
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes."), ("user", "Name a colour.")]
    messages = [Message(role, text) for role, text in turns]  # type: ignore[arg-type]
    with hornbook.load(smollm2_path, device="cpu") as llm:
        own = llm.chat(messages, sampling=drawn).content
        again = llm.chat([*messages, Message("assistant", own), Message("user", "Why?")], sampling=drawn).content
        ids = template_of(GO, llm.tokenizer).render(messages, reply=True).ids
        written = llm.generate(list(ids), drawn)[0]

    assert run("run", "plain", "Name a colour.")[0].rstrip("\n") == own.rstrip("\n")
    assert run("chat", "plain", stdin="Name a colour.\nWhy?\n")[0].split() == f"{own} {again}".split()
    told = json.loads(run("run", "go:latest", "Name a colour.", "--json")[0])
    assert (told["model"], told["text"]) == ("go", written.text)
    assert told["usage"] == {
        "prompt_tokens": len(ids),
        "completion_tokens": written.usage.completion_tokens,
    }
    # options win over PARAMETERs, --system over SYSTEM; the examples stay, and stand before it as they do at the server
    swapped = [*messages[1:3], Message("system", "Sing."), messages[3]]
    with hornbook.load(smollm2_path, device="cpu") as llm:
        other = llm.chat(swapped, sampling=replace(drawn, temperature=0.0, max_tokens=4)).content
    said = run("run", "plain", "Name a colour.", "--system", "Sing.", "--temperature", "0", "--max-tokens", "4")[0]
    assert said.rstrip("\n") == other.rstrip("\n") and other != own


def test_num_ctx_bounds_prompt_and_answer_of_a_created_model(run: Any) -> None:
    run("create", "small", "-f", "-", stdin="FROM smollm2:135m\nPARAMETER num_ctx 64\nPARAMETER num_predict -1\n")
    usage = json.loads(run("run", "small", "Count to a thousand.", "--json")[0])["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == 64
    assert "64" in run("run", "small", "word " * 80, code=2)[1]
    assert "system: Be kind." in run("chat", _kind(run), stdin="/system\n")[1]


def _kind(run: Any) -> str:
    run("create", "kind", "-f", "-", stdin="FROM smollm2:135m\nSYSTEM Be kind.\n")
    return "kind"


def test_a_created_model_brings_its_adapter(run: Any, smollm2_path: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"A": (2, 576), "B": (576, 2)}
    place = "base_model.model.model.layers.3.self_attn.q_proj.lora_{}.weight"
    weights = {place.format(end): rng.normal(size=shape).astype(np.float32) for end, shape in shapes.items()}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    run("create", "bent", "-f", "-", stdin=f"FROM smollm2:135m\nADAPTER {tmp_path}\n")
    with hornbook.load(smollm2_path, device="cpu") as llm:
        llm.add_adapter("bent", tmp_path)
        prompt = llm.render([Message("user", "Hi")])
        bent, straight = (
            llm.generate(prompt, SamplingParams(max_tokens=8), adapter=name)[0].text for name in ("bent", None)
        )
    assert run("run", "bent", "Hi", "--max-tokens", "8")[0].rstrip("\n") == bent.rstrip("\n") != straight.rstrip("\n")


def test_what_is_made_from_a_model_that_does_not_write_is_not_run(run: Any, minilm_path: Path) -> None:
    run("create", "vectors", "-f", "-", stdin=f"FROM {minilm_path}\n")
    assert "vectors is made from" in run("run", "vectors", "Hi", code=2)[1]


def test_a_fault_is_told_in_two_lines(run: Any, tmp_path: Path) -> None:
    told = run("create", "x", "-f", "-", stdin="FROM smollm2:135m\nPARAMETER mirostat 2\n", code=2)[1]
    assert told.startswith("hornbook: the Modelfile, line 2: the parameter mirostat is not supported")
    assert len(told.splitlines()) == 2
    assert "cannot be read" in run("create", "x", "-f", str(tmp_path / "none"), code=2)[1]
    (tmp_path / "latin").write_bytes(b"FROM smollm2:135m\nSYSTEM caf\xe9\n")
    assert "UTF-8" in run("create", "x", "-f", str(tmp_path / "latin"), code=2)[1]
