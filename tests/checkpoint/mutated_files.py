"""Spoils small model files in many ways and reads each: a program, so that a crash or a hang is the child's alone.

    python mutated_files.py gguf|safetensors SEED FIRST LAST FOLDER

Every case follows from the seed and its number. Each file must open and read whole, or raise a HornbookError, within a
few seconds and a few megabytes. Prints how often each happened, as JSON; ends with 1 and the case where one did not.
"""

from __future__ import annotations

import json
import random
import re
import resource
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf_writer import ARRAY, BOOL, F32, I32, STRING, U8, U16, U32, U64, write_gguf

from hornbook.checkpoint.dequantize import FORMATS
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.safetensors import SafetensorsFile
from hornbook.errors import HornbookError, UnsupportedModel

MEMORY = 256 << 20  # bytes of address space beyond what the program has at the start
SECONDS = 5  # for one file

EXTREMES = [0, 1, 2, 7, 31, 32, 33, 127, 128, 255, 256, 4095, 65535, 65536, (1 << 24) + 1, (1 << 31) - 1, 1 << 31]
EXTREMES += [(1 << 32) - 1, 1 << 32, 1 << 40, 1 << 53, (1 << 62) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 32]
EXTREMES += [(1 << 64) - 1]

Numbers = list[tuple[int, int]]  # where the numbers of a header start, and how wide they are


# ---------------------------------------------------------------------------------------------------- sound files


def gguf_bases() -> list[tuple[bytes, Numbers]]:
    tokens = ["<s>", "</s>", "", "▁the", "你好", "🙂"] + [f"t{i}" for i in range(40)]
    vocabulary = [
        ("general.architecture", STRING, "llama"),
        ("general.alignment", U32, 32),
        ("llama.rope.freq_base", F32, 1e4),
        ("split.count", U16, 1),
        ("tokenizer.ggml.add_bos_token", BOOL, False),
        ("tokenizer.ggml.tokens", (ARRAY, STRING), tokens),
        ("tokenizer.ggml.token_type", (ARRAY, I32), [1] * len(tokens)),
        ("general.nested", (ARRAY, (ARRAY, STRING)), [["a"], [], ["b", "c"]]),
    ]
    noise = random.Random(0)
    quantised = [
        (f"blk.{number}.weight", (format.block, 3), number, noise.randbytes(3 * format.nbytes))
        for number, format in FORMATS.items()
    ]
    plain = [("a", (3, 2, 2), 0, bytes(48)), ("b", (), 26, bytes(4)), ("c", (7,), 1, bytes(14))]
    files = [
        write_gguf(vocabulary, plain),
        write_gguf([("general.architecture", STRING, "x"), ("n", U64, 1)], quantised, version=2),
        write_gguf([("general.alignment", U32, 8), ("u", (ARRAY, U8), [1, 2, 3])], plain, alignment=8),
        write_gguf(),
    ]
    return [(bytes(file.data), list(file.numbers.values())) for file in files]


def safetensors_bases() -> list[tuple[bytes, Numbers]]:
    def file(header: dict[str, Any], size: int) -> bytes:
        encoded = json.dumps(header, ensure_ascii=False).encode()
        encoded += b" " * (-len(encoded) % 8)
        return len(encoded).to_bytes(8, "little") + encoded + bytes(i % 251 for i in range(size))

    def tensor(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}

    mixed = {
        "__metadata__": {"format": "pt", "名": "值"},
        "embed.weight": tensor("F32", [4, 3], 0, 48),
        "half": tensor("F16", [5], 48, 58),
        "brain": tensor("BF16", [2, 2], 58, 66),
        "ids": tensor("I64", [2], 66, 82),
        "empty": tensor("F32", [0, 7], 82, 82),
        "scalar": tensor("F64", [], 82, 90),
        "flags": tensor("BOOL", [3], 90, 93),
        "eight": tensor("F8_E4M3", [3], 93, 96),
    }
    many = {f"model.layers.{i}.weight": tensor("F32", [1], 4 * i, 4 * i + 4) for i in range(12)}
    files = [file(mixed, 96), file(many, 48), file({}, 0)]
    return [(content, [(0, 8)] * 3) for content in files]


# ----------------------------------------------------------------------------------------------------- mutations


def flip_bits(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_a_bit_of_the_header(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    data[rng.randrange(min(len(data), 200))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def set_a_number(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    start, width = rng.choice(numbers)
    now = int.from_bytes(data[start : start + width], "little")
    near = [now - 1, now + 1, now * 2, now + 32, now + 64, len(data), len(data) - start, len(data) - start - 8]
    value = rng.choice(EXTREMES + near) % (1 << 8 * width)
    data[start : start + width] = value.to_bytes(width, "little")


def set_a_number_to_another(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    (start, width), (other, _) = rng.choice(numbers), rng.choice(numbers)
    data[start : start + width] = data[other : other + width]


def swap_stretches(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    length = rng.randrange(1, 40)
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    first, second = data[a : a + length], data[b : b + length]
    data[b : b + length], data[a : a + length] = first, second


def repeat_a_stretch(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.randrange(1, 64)] * rng.choice([1, 1, 5])


def remove_a_stretch(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 32)]


def insert_noise(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start:start] = rng.randbytes(rng.randrange(1, 32))


def fill_a_stretch(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    start, length = rng.randrange(len(data)), rng.randrange(1, 64)
    data[start : start + length] = bytes([rng.choice([0, 0xFF, 0x20, 0x7B])]) * len(data[start : start + length])


def append_noise(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    data += rng.randbytes(rng.randrange(1, 100))


ANY = [flip_bits, flip_a_bit_of_the_header, cut, swap_stretches, repeat_a_stretch, remove_a_stretch, insert_noise]
ANY += [fill_a_stretch, append_noise]
FIELDS = [set_a_number, set_a_number, set_a_number, set_a_number_to_another]

_SAMPLES: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    1e400,
    "",
    "F32",
    "I8",
    "F4",
    "\x00",
    [],
    {},
    [[]],
    "a" * 3000,
    *EXTREMES,
]


def change_the_json(data: bytearray, numbers: Numbers, rng: random.Random) -> None:
    """Change one value, key or character of a safetensors header and pack it again, mostly with a length that fits."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return
    if type(header) is not dict or not header:
        return
    name = rng.choice(list(header))
    entry, turn = header[name], rng.randrange(9)
    if turn == 0:
        header[name] = rng.choice(_SAMPLES)
    elif turn == 1 and type(entry) is dict and entry:
        entry[rng.choice(list(entry))] = rng.choice(_SAMPLES)
    elif turn == 2 and type(entry) is dict:
        for key in ("shape", "data_offsets"):
            if type(entry.get(key)) is list and entry[key]:
                entry[key][rng.randrange(len(entry[key]))] = rng.choice(_SAMPLES)
    elif turn == 3 and type(entry) is dict:
        entry["dtype"] = rng.choice(["F32", "F16", "BF16", "F8_E5M2", "U64", "BOOL", "F6_E2M3", "f32", ""])
    elif turn == 4:
        header[rng.choice(["", "__metadata__", "\ud800", "é", "x" * 999])] = header.pop(name)
    elif turn == 5 and type(entry) is dict and type(entry.get("shape")) is list:
        entry["shape"] += rng.choice([[1] * 70, [0, 1 << 63], [0, 1 << 62, 1 << 62], [0], [1]])
    encoded = json.dumps(header).encode()
    if turn == 6:
        encoded = re.sub(rb"\d+", rng.choice([b"9" * 5000, b"-1", b"1e9", b"NaN", b"0x1"]), encoded, count=1)
    elif turn == 7:
        encoded = rng.choice([b'{"a":' * 50_000, b'{"a":' + b"[" * 50_000, encoded[:-1] + b"," + encoded[1:], b"{"])
    elif turn == 8:
        encoded = encoded.replace(b'"', rng.choice([b"'", b"\xff", b'\\u0000"']), 1)
    encoded += b" " * rng.choice([0, 0, 0, 8])
    size = len(encoded) + rng.choice([0, 0, 0, 0, -1, 1])
    data[: 8 + length] = max(0, size).to_bytes(8, "little") + encoded


def mutated(bases: list[tuple[bytes, Numbers]], special: list[Callable[..., None]], rng: random.Random) -> bytes:
    content, numbers = rng.choice(bases)
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if data:
            change = rng.choice(special if rng.random() < 0.6 else ANY)
            change(data, [(start, width) for start, width in numbers if start + width <= len(data)] or [(0, 1)], rng)
    return bytes(data)


# ------------------------------------------------------------------------------------------------------- reading


def read_gguf(path: Path) -> None:
    with GGUF.open(path) as opened:
        for key in opened.metadata:
            _ = opened.metadata[key]
        read_tensors(opened, path)


def read_safetensors(path: Path) -> None:
    with SafetensorsFile.open(path) as opened:
        read_tensors(opened, path)
        for name, info in opened.tensors.items():
            assert tuple(opened.torch(name).shape) == info.shape


def read_tensors(opened: GGUF | SafetensorsFile, path: Path) -> None:
    assert sum(info.nbytes for info in opened.tensors.values()) <= path.stat().st_size
    for name, info in opened.tensors.items():
        assert opened.raw(name).nbytes == info.nbytes
        try:
            values = opened.tensor(name)
        except UnsupportedModel:
            continue
        assert values.shape == info.shape
        np.sum(values, where=values == values)


def main(format: str, seed: int, first: int, last: int, folder: Path) -> int:
    if format == "gguf":
        bases, special, read = gguf_bases(), FIELDS, read_gguf
    else:
        bases, special, read = safetensors_bases(), [change_the_json, change_the_json, set_a_number], read_safetensors
    outcomes: Counter[str] = Counter()
    messages: set[str] = set()
    for number, (content, _) in enumerate(bases):  # the sound files open; torch is imported before memory is limited
        path = folder / f"sound-{number}"
        path.write_bytes(content)
        read(path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    np.seterr(all="ignore")
    for case in range(first, last):
        path = folder / f"case-{case}"
        path.write_bytes(mutated(bases, special, random.Random(f"{format} {seed} {case}")))
        signal.alarm(SECONDS)  # ends the program
        try:
            read(path)
            outcomes["opened"] += 1
        except HornbookError as error:
            if not (error.what.isprintable() and error.remedy and len(error.what) < 500):
                print(f"seed {seed}, case {case}: the error is not for people: {error!r}", file=sys.stderr)
                return 1
            outcomes[type(error).__name__] += 1
            messages.add(re.sub(r"[\d,]+|'.*'", "#", error.what.split(": ", 1)[-1])[:25])
        except BaseException:
            traceback.print_exc()
            print(f"seed {seed}, case {case}: neither read nor refused by name; {path} is kept", file=sys.stderr)
            return 1
        path.unlink()
    outcomes["messages"] = len(messages)
    print(json.dumps(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])))
