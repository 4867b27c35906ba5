"""Read a SentencePiece model (tokenizer.model): a protobuf message, of which a tokenizer needs three parts.

    ModelProto            1 pieces (repeated)    2 trainer_spec    3 normalizer_spec
    SentencePiece         1 piece (string)       2 score (float)   3 type (the numbers that GGUF took over)
    TrainerSpec           3 model_type           40 unk_id   41 bos_id   42 eos_id   43 pad_id
    NormalizerSpec        2 precompiled_charsmap   3 add_dummy_prefix   4 remove_extra_whitespaces

The format is protobuf's wire encoding: a varint key (field << 3 | wire type), then a varint, 8 bytes, a length with that
many bytes, or 4 bytes. What comes out is the metadata that a GGUF file of the same model would carry.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.text.detokenize import SPACE

MAX_BYTES = 256 << 20
_FIX = "Pull the model again, or restore the file."
_ALGORITHMS = {1: "t5", 2: "llama"}  # TrainerSpec.ModelType: unigram, BPE; word and character models are not in use
_USER_DEFINED = 4
_DEFAULT_IDS = {"unknown": (40, 0), "bos": (41, 1), "eos": (42, 2), "padding": (43, -1)}


def read_sentencepiece(path: Path) -> dict[str, Any]:
    """The metadata (``tokenizer.ggml.*``) of a SentencePiece model file.

    Raises ModelFileError where the file is damaged, UnsupportedModel where its algorithm is neither BPE nor Unigram.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelFileError(f"{path} has {path.stat().st_size:,} bytes, {MAX_BYTES:,} at most", _FIX)
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error}", _FIX) from error
    try:
        return _metadata(data)
    except (ValueError, struct.error) as error:
        raise ModelFileError(f"{path} is not a sound SentencePiece model: {error}", _FIX) from error


def _metadata(data: bytes) -> dict[str, Any]:
    pieces, scores, types = [], [], []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for field, value in _fields(data):
        if field == 1:
            piece = dict(_fields(_message(value)))
            types.append(int(piece.get(3, 1)))
            text = _message(piece.get(1, b"")).decode()
            pieces.append(text.replace(SPACE, " ") if types[-1] == _USER_DEFINED else text)  # matched in text as it is
            scores.append(struct.unpack("<f", _message(piece.get(2, b"\0\0\0\0")))[0])
        elif field == 2:
            trainer = dict(_fields(_message(value)))
        elif field == 3:
            normalizer = dict(_fields(_message(value)))
    if not pieces:
        raise ValueError("it holds no pieces")
    algorithm = _ALGORITHMS.get(trainer.get(3, 1))
    if algorithm is None:
        raise UnsupportedModel(
            f"the SentencePiece model type {trainer.get(3)} is not one that Hornbook knows",
            "Known are Unigram (1) and BPE (2).",
        )
    ids = {name: _signed(trainer.get(field, default)) for name, (field, default) in _DEFAULT_IDS.items()}
    return {
        "tokenizer.ggml.model": algorithm,
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": np.asarray(scores),
        "tokenizer.ggml.token_type": np.asarray(types),
        "tokenizer.ggml.add_space_prefix": bool(normalizer.get(3, 1)),
        "tokenizer.ggml.remove_extra_whitespaces": bool(normalizer.get(4, 1)),
        "tokenizer.ggml.precompiled_charsmap": np.frombuffer(_message(normalizer.get(2, b"")), np.uint8),
        **{f"tokenizer.ggml.{name}_token_id": id for name, id in ids.items() if id >= 0},
    }


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (field number, value) pairs of a message; of a fixed-width value, its bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + length > len(data):
            raise ValueError(f"a field of {length} bytes at byte {at} of {len(data)}")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"a number that does not end at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _signed(value: int | bytes) -> int:
    """An int32 field: negative numbers are written as 64-bit two's complement."""
    number = int(value)
    return number - (1 << 64) if number >= 1 << 63 else number


def _message(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where a message or a string belongs")
    return value
