"""The real models against two other engines on real text: transformers on the same file, and llama.cpp.

transformers is given each file with its vocabulary blanked (it would take half a minute to read it); tensors and sizes
are the file's own bytes. llama.cpp is called through the C interface of the xllamacpp wheel. It rounds activations to
8 bits and we do not, so that a few percent of the first choices differ where two tokens are nearly equal.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_llama_cpp import llama_cpp

from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.loading import Checkpoint, load

pytestmark = pytest.mark.models

TEXT = (
    "The sea was calm, and Mary (aged 31) wrote: 'E = mc^2, or so they say.' "
    "春天来了，河边的柳树都绿了。他说：“我们明天去北京吧，路上要走三个小时。” def f(x): return x + 1"
)
WINDOW = 450
WINDOWS = {"llama": 5, "gemma3": 1}  # the larger model takes its time; on five it gave 95.5% and 0.3%


@pytest.fixture(scope="module", params=["smollm2", "gemma"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    loaded = load(request.getfixturevalue(f"{request.param}_path"), device="cpu")
    loaded.model.requires_grad_(False)
    return loaded


def without_vocabulary(path: Path, to: Path) -> Path:
    """The same tensors, byte for byte, and the same sizes, written by the gguf package; every token is "x"."""
    from gguf import GGMLQuantizationType, GGUFWriter

    with GGUF.open(path) as file:
        writer = GGUFWriter(to, file.metadata["general.architecture"])
        add = {int: writer.add_uint32, float: writer.add_float32}
        for key in file.metadata:
            if not key.startswith(("tokenizer.", "general.", "GGUF.")) and type(file.metadata[key]) in add:
                add[type(file.metadata[key])](key, file.metadata[key])
        writer.add_array("tokenizer.ggml.tokens", ["x"] * file.tensors["token_embd.weight"].shape[0])
        for name, info in file.tensors.items():
            raw = file.raw(name).reshape(*info.shape[:-1], -1)
            writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType[info.type])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return to


def test_logits_equal_those_of_transformers_from_the_same_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    file = without_vocabulary(checkpoint.path, tmp_path / "model.gguf")
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).eval()
    ids = torch.tensor([checkpoint.tokenizer.encode(TEXT)])
    assert ids.shape[1] > 60
    with torch.inference_mode():
        expected, found = reference(ids).logits, checkpoint.model(ids).logits
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"\n{checkpoint.path.name}: logits within {error:.1e} of transformers")
    assert error < 1e-4
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_first_choices_and_perplexity_agree_with_llama_cpp(checkpoint: Checkpoint, shared: Path) -> None:
    with gzip.open(shared / "lm_text" / "wikitext2_valid.txt.gz", "rt", encoding="utf-8") as file:
        ids = checkpoint.tokenizer.encode(file.read(12_000), add_special=False)
    start = [checkpoint.tokenizer.bos_id] if checkpoint.tokenizer.add_bos else []
    windows = WINDOWS[checkpoint.metadata["general.architecture"]]
    texts = [start + ids[i * WINDOW : (i + 1) * WINDOW] for i in range(windows)]
    agreed = tokens = 0
    surprise = np.zeros(2)
    for text, theirs in zip(texts, llama_cpp(checkpoint.path, texts, checkpoint.config.vocab_size), strict=True):
        with torch.inference_mode():
            ours = checkpoint.model(torch.tensor([text])).logits[0]
        agreed += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        tokens += len(text)
        surprise += [surprisal(logits, torch.tensor(text)) for logits in (ours, theirs)]
    perplexity = np.exp(surprise / (tokens - len(texts)))
    print(
        f"\n{checkpoint.path.name}: {tokens} tokens, same first choice {agreed / tokens:.2%}, "
        f"perplexity {perplexity[0]:.3f} here, {perplexity[1]:.3f} in llama.cpp"
    )
    assert tokens >= windows * WINDOW
    assert agreed / tokens >= 0.95
    assert abs(math.log(perplexity[0] / perplexity[1])) < 0.01


def surprisal(logits: torch.Tensor, ids: torch.Tensor) -> float:
    """Sum of -log p of each token after the first."""
    chosen = logits[:-1].gather(1, ids[1:, None])[:, 0]
    return float((logits[:-1].logsumexp(-1) - chosen).double().sum())
