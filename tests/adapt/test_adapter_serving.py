"""An adapter at work: in the engine, merged on opening, attached; the same answers as the model that it was trained on."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hornbook
from hornbook import adapt, cli
from hornbook.adapt import IA3, Bottleneck, LoRA, Prompt
from hornbook.checkpoint.loading import load
from hornbook.engine.pairing import joined
from hornbook.errors import UsageError
from hornbook.llm import LocalLLM
from hornbook.model.transformer import Transformer
from hornbook.settings import Settings
from hornbook.types import SamplingParams

EXACT = Settings.load(cache="float32")  # keys and values as torch keeps them
PROMPT = [5, 9, 40, 17, 80]
GREEDY = SamplingParams(max_tokens=10, ignore_eos=True)
KINDS: dict[str, adapt.Adapter] = {
    "lora": LoRA(rank=4),
    "dora": LoRA(rank=4, dora=True, targets=["q_proj", "down_proj"]),
    "lora and norms": LoRA(rank=2, train_also=["norms"]),
    "ia3": IA3(),
    "prompt": Prompt(tokens=4),
    "bottleneck": Bottleneck(width=8),
}


@pytest.fixture(scope="module")
def trained(tiny_llm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Transformer]]:
    made: dict[str, tuple[Path, Transformer]] = {}

    def get(kind: str) -> tuple[Path, Transformer]:
        if kind not in made:
            generator = torch.Generator().manual_seed(8)
            model = load(tiny_llm_path).model
            attached = adapt.attach(model, KINDS[kind], generator=generator)
            with torch.no_grad():
                for parameter in attached.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
            folder = tmp_path_factory.mktemp("run") / "adapter"
            attached.save(folder)
            made[kind] = folder, model.eval()
        return made[kind]

    return get


@torch.no_grad()
def greedy(model: Transformer, count: int) -> list[int]:
    ids = torch.tensor([PROMPT])
    for _ in range(count):
        logits = model(ids, logits="last").logits
        assert logits is not None
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    return ids[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("dtype", ["auto", "float32"], ids=["native where it can", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_answers_as_the_trained_one(
    kind: str, dtype: str, tiny_llm_path: Path, trained: Callable[[str], tuple[Path, Transformer]]
) -> None:
    folder, model = trained(kind)
    plain = load(tiny_llm_path).model
    expected = greedy(model, GREEDY.max_tokens)
    assert expected != greedy(plain, GREEDY.max_tokens)
    with hornbook.load(str(tiny_llm_path), adapter=folder.parent, device="cpu", dtype=dtype, settings=EXACT) as llm:
        assert isinstance(llm, LocalLLM)
        said = llm.generate(PROMPT, GREEDY)[0]
        assert list(said.token_ids) == expected
        assert [token.id for token in llm.stream(PROMPT, GREEDY)] == expected
        assert ("attached" in llm.runs_on) == (kind in ("prompt", "bottleneck"))
        (score,) = llm.score([("The licence ", "grants you")])
        ((ids, start),) = joined(llm.tokenizer, [("The licence ", "grants you")])
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits
        assert logits is not None
        right = logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[start - 1 :].sum()
        assert score.logprob == pytest.approx(float(right), abs=2e-3) and score.tokens == len(ids) - start
        assert llm.chat([{"role": "user", "content": "Hi"}], sampling=SamplingParams(max_tokens=3)).role == "assistant"


def test_two_answers_and_an_error_come_from_an_attached_model(
    tiny_llm_path: Path, trained: Callable[[str], tuple[Path, Transformer]]
) -> None:
    folder, _ = trained("prompt")
    llm = hornbook.load(str(tiny_llm_path), adapter=folder, device="cpu", settings=EXACT)
    assert isinstance(llm, LocalLLM)
    drawn = SamplingParams(max_tokens=4, temperature=1.0, n=3, ignore_eos=True)
    assert len(llm.generate([PROMPT, PROMPT[:2]], drawn)) == 6
    for wrong in (
        lambda: llm.add_adapter("x", trained("lora")[0]),
        lambda: llm.generate(PROMPT, deadline=1.0),
        llm.stats,
    ):
        with pytest.raises(UsageError, match="attached to it"):
            wrong()
    with pytest.raises(UsageError, match="context"):
        llm.generate([1] * 300)
    llm.close()
    with pytest.raises(UsageError, match="closed"):
        llm.generate(PROMPT)


def test_another_base_is_refused_when_a_model_is_opened(
    tiny_llm_path: Path, tmp_path: Path, trained: Callable[[str], tuple[Path, Transformer]]
) -> None:
    from hornbook.checkpoint import saving

    checkpoint = load(tiny_llm_path)
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter.mul_(1.1)
    saving.save(checkpoint, tmp_path / "other")
    for kind in ("lora", "dora"):
        with pytest.raises(UsageError, match="another base"):
            hornbook.load(str(tmp_path / "other"), adapter=trained(kind)[0], device="cpu")


# ---------------------------------------------------------------------------------------------------- the command line


def command(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr("sys.stdin", io.StringIO())
        cli.main(arguments)
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture
def run_folder(home: Path, trained: Callable[[str], tuple[Path, Transformer]]) -> Path:
    """A run called pirate in a home of this test's own."""
    (home / "runs" / "pirate").mkdir(parents=True)
    (home / "runs" / "pirate" / "adapter").symlink_to(trained("dora")[0])
    return home / "runs" / "pirate"


def test_a_run_is_asked_merged_and_exported_by_its_name(
    run_folder: Path, tiny_llm_path: Path, tmp_path: Path, trained: Callable[[str], tuple[Path, Transformer]]
) -> None:
    model = trained("dora")[1]
    base = str(tiny_llm_path)
    code, out, err = command("run", base, "hello", "--adapter", "pirate", "--max-tokens", "5", "--json")
    assert code == 0, err
    assert json.loads(out)["usage"]["completion_tokens"] >= 1
    code, out, err = command("run", base, "hello", "--adapter", "pirat")
    assert code == 2 and "pirate" in err

    code, out, err = command("merge", base, "pirate", "-o", str(tmp_path / "merged"), "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["drift"]["top1"] == 1.0 and said["drift"]["kl"] < 1e-6
    ids = torch.tensor([PROMPT])
    merged = load(tmp_path / "merged").model
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, model(ids).logits, atol=1e-3)

    file = tmp_path / "pirate.gguf"
    code, out, err = command(
        "export", base, "--to", "gguf", "-q", "F16", "--adapter", "pirate", "-o", str(file), "--json"
    )
    assert code == 0, err
    said = json.loads(out)
    assert said["drift"]["top1"] > 0.9 and math.isfinite(said["drift"]["kl"])
    with torch.no_grad():
        plain = load(tiny_llm_path).model(ids).logits
        near, far = ((load(file).model(ids).logits - x).abs().mean() for x in (model(ids).logits, plain))
    assert near < far / 5


def test_a_prompt_cannot_be_merged(
    home: Path, tiny_llm_path: Path, tmp_path: Path, trained: Callable[[str], tuple[Path, Transformer]]
) -> None:
    code, _, err = command("merge", str(tiny_llm_path), str(trained("prompt")[0]), "-o", str(tmp_path / "m"))
    assert code == 2 and "cannot be merged" in err and not (tmp_path / "m").exists()
