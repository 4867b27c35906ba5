"""llama.cpp's logits and pooled states, taken through the C interface of the xllamacpp wheel."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch


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
        "llama_encode": (ctypes.c_int32, [ctypes.c_void_p, Batch]),
        "llama_decode": (ctypes.c_int32, [ctypes.c_void_p, Batch]),
        "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p]),
        "llama_set_embeddings": (None, [ctypes.c_void_p, ctypes.c_bool]),
        "llama_get_embeddings_seq": (ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p, ctypes.c_int32]),
        "llama_batch_free": (None, [Batch]),
        "llama_free": (None, [ctypes.c_void_p]),
        "llama_model_free": (None, [ctypes.c_void_p]),
        "llama_backend_init": (None, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def llama_cpp(
    path: Path, texts: list[list[int]], vocab: int = 0, *, pooled_width: int = 0, source: list[int] | None = None
) -> Iterator[torch.Tensor]:
    """The logits [T, V] of each text or, of an encoder whose file says how it pools, its vector [C], by llama.cpp.

    source: what the encoder of a model with two halves reads before each text.
    """
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
        context = library.llama_init_from_model(model, parameters)
        library.llama_set_embeddings(context, bool(pooled_width))
        if source is not None:
            read = _batch(library, source)
            assert library.llama_encode(context, read) == 0
            library.llama_batch_free(read)
        batch = _batch(library, ids)
        assert library.llama_decode(context, batch) == 0
        if pooled_width:
            found = np.ctypeslib.as_array(library.llama_get_embeddings_seq(context, 0), (pooled_width,))
        else:
            found = np.ctypeslib.as_array(library.llama_get_logits(context), (len(ids), vocab))
        yield torch.from_numpy(found.copy())
        library.llama_batch_free(batch)
        library.llama_free(context)
    library.llama_model_free(model)


def _batch(library: ctypes.CDLL, ids: list[int]) -> Batch:
    batch: Batch = library.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    return batch
