"""The real models against two other engines on real text: transformers on the same file, and llama.cpp.

transformers is given each file with its vocabulary blanked (it would take half a minute to read it); tensors and sizes
are the file's own bytes. llama.cpp is called through the C interface of the xllamacpp wheel. It rounds activations to
8 bits and we do not, so that a few percent of the first choices differ where two tokens are nearly equal.
"""

from __future__ import annotations

import ctypes
import gzip
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.load import Checkpoint, load

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


# ------------------------------------------------------------------------------------ llama.cpp, by its C interface


class Parameters(ctypes.Structure):
    """llama_model_params or llama_context_params: passed on as they came, in a box larger than either."""

    _fields_ = [("words", ctypes.c_uint32 * 256)]


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def c_interface() -> ctypes.CDLL:
    xllamacpp = pytest.importorskip("xllamacpp")
    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))))
    signatures = {
        "llama_model_default_params": (Parameters, []),
        "llama_context_default_params": (Parameters, []),
        "llama_model_load_from_file": (ctypes.c_void_p, [ctypes.c_char_p, Parameters]),
        "llama_init_from_model": (ctypes.c_void_p, [ctypes.c_void_p, Parameters]),
        "llama_batch_init": (Batch, [ctypes.c_int32] * 3),
        "llama_decode": (ctypes.c_int32, [ctypes.c_void_p, Batch]),
        "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p]),
        "llama_batch_free": (None, [Batch]),
        "llama_free": (None, [ctypes.c_void_p]),
        "llama_model_free": (None, [ctypes.c_void_p]),
        "llama_backend_init": (None, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def llama_cpp(path: Path, texts: list[list[int]], vocab: int) -> Iterator[torch.Tensor]:
    """The logits [T, V] of each text, by llama.cpp."""
    library = c_interface()
    library.llama_backend_init()
    parameters = library.llama_context_default_params()
    if list(parameters.words[:3]) != [512, 2048, 512]:
        pytest.skip(f"this llama.cpp lays out its parameters in another way: {list(parameters.words[:8])}")
    parameters.words[0] = parameters.words[1] = parameters.words[2] = (
        512  # context, batch, and what is computed at once
    )
    parameters.words[6] = parameters.words[7] = torch.get_num_threads()
    model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
    assert model
    for ids in texts:
        context, batch = library.llama_init_from_model(model, parameters), library.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert library.llama_decode(context, batch) == 0
        yield torch.from_numpy(np.ctypeslib.as_array(library.llama_get_logits(context), (len(ids), vocab)).copy())
        library.llama_batch_free(batch)
        library.llama_free(context)
    library.llama_model_free(model)
