"""A model on disk for the native kernels: its weights as the file has them, under our names, and torch is never imported.

    model.gguf, or a folder --open_packed--> Packed: config, tokenizer, chat template,
                                             weights: our name -> PackedTensor: type "Q4_1", bytes of the file, order of rows

A family's rules say how a tensor of theirs becomes one of ours. What only moves rows is found by moving their numbers:
the blocks of a quantised row stay what they are, and ``order`` says where each row comes from. Experts that a file has one
by one are put one behind the other as they are. What changes numbers is
done in float32 to tensors that the file has as floats; a quantised matrix of which more is asked is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from hornbook.checkpoint.dequantize import BY_NAME, Floats, dequantize
from hornbook.checkpoint.family import AGAIN, Family
from hornbook.checkpoint.finite import not_finite
from hornbook.checkpoint.fitting import Fitted, Shape, fit
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.header import folder_config, gguf_config, read_raw
from hornbook.checkpoint.mapped import Bytes
from hornbook.checkpoint.quantize import quantize as quantized
from hornbook.checkpoint.rules import SAME, Rule, Stacked, TensorSource
from hornbook.checkpoint.safetensors import SafetensorsFolder
from hornbook.checkpoint.stretch import stretched
from hornbook.errors import ModelFileError, ModelNotFound, UnsupportedModel, UsageError
from hornbook.model.config import ModelConfig
from hornbook.model.parameters import parameters

if TYPE_CHECKING:
    from hornbook.text.chat import ChatTemplate
    from hornbook.text.tokenizer import Tokenizer

Order: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"
Text: TypeAlias = "tuple[Tokenizer, ChatTemplate | None]"

FLOATS = ("F32", "F16", "BF16")
# The number of a row as something that can be moved and not computed with.
_ROW = np.dtype([("row", np.int32)])


class FileSource(TensorSource, Protocol):
    """An open model file, whose bytes can be had as they are."""

    def raw(self, name: str) -> Bytes: ...

    def release(self, name: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One parameter. ``raw`` holds rows of ``shape[-1]`` values of ``type``; row i of the parameter is row ``order[i]`` of
    them, or row i where there is no order."""

    name: str
    type: str  # "F32", "Q4_K", ...: what GGUF calls it
    shape: tuple[int, ...]
    order: Order | None
    _raw: Callable[[], Bytes]
    _values: Callable[[], Floats]
    _release: Callable[[], None]

    @property
    def raw(self) -> Bytes:
        """The bytes as stored, a view of the file where it has them as they are wanted.

        Raises ModelFileError where a number in them is not finite, for one would make every answer NaN.
        """
        raw = self._raw()
        if bad := not_finite(raw, self.type):
            raise _damaged(self.name, bad)
        return raw

    def values(self) -> Floats:
        """[*shape] float32. Raises ModelFileError where one is not finite."""
        values = self._values()
        if bad := values.size - int(np.isfinite(values).sum()):
            raise _damaged(self.name, bad)
        return values

    def rows(self, which: Sequence[int]) -> Floats:
        """Some rows of a matrix, float32 [len(which), cols], of which alone the bytes are read where they lie in rows."""
        form, cols = BY_NAME[self.type], self.shape[-1]
        size = cols // form.block * form.nbytes
        places = which if self.order is None else self.order[list(which)]
        raw, out = self._raw(), np.empty((len(which), cols), np.float32)
        for row, place in zip(out, places, strict=True):
            dequantize(raw[size * place : size * (place + 1)], form, row)
        return out

    def release(self) -> None:
        """Let the system take back the memory of the file's bytes, which have been used."""
        self._release()


class Packed:
    """An open model. ``metadata``: what the file says of itself. Arrays that were handed out outlive ``close``."""

    def __init__(
        self, path: Path, config: ModelConfig, family: Family, metadata: Mapping[str, Any],
        weights: Mapping[str, PackedTensor], source: FileSource, text: Future[Text],
    ) -> None:  # fmt: skip
        self.path, self.config, self.family, self.metadata = path, config, family, metadata
        self.weights = weights
        self._source, self._text = source, text

    @property
    def tokenizer(self) -> Tokenizer:
        """Made beside what else is done. Raises ModelFileError or UnsupportedModel where the model has none to be read."""
        return self._text.result()[0]

    @property
    def chat_template(self) -> ChatTemplate | None:
        """None where the model has none. Raises as ``tokenizer``, and TemplateError."""
        return self._text.result()[1]

    def close(self) -> None:
        self._text.exception()  # which reads from the file
        self._source.close()

    def __enter__(self) -> Packed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_packed(path: str | Path, *, stretch: str | None = None, text: bool = True) -> Packed:
    """Open a .gguf file, or a folder with config.json and safetensors; every name and shape is checked, no weight read.

    stretch  a longer context than the model was trained for: "yarn:4" (see checkpoint/stretch.py)
    text     whether its tokenizer and its template are wanted, which are read in a thread of their own
    Raises ModelNotFound, ModelFileError (damaged, or contradicts itself), UsageError, UnsupportedModel: also where only
    the rows of a quantised matrix, changed in more than their order, would make the model.
    """
    path = Path(path)
    if not path.exists():
        raise ModelNotFound(f"there is no file or folder {path}", "Check the path.")
    return (_open_folder if path.is_dir() else _open_gguf)(path, stretch, text)


def _open_gguf(path: Path, stretch: str | None, wanted: bool) -> Packed:
    file = GGUF.open(path)
    try:
        family, config = gguf_config(file)

        def text() -> Text:  # imports too beside what else is done
            from hornbook.text.chat import ChatTemplate
            from hornbook.text.tokenizer import Tokenizer

            tokenizer = Tokenizer.from_gguf(file.metadata)
            return tokenizer, ChatTemplate.from_gguf(file.metadata, tokenizer)

        return _packed(path, config, family, file.metadata, file, stretch, text if wanted else _unread)
    except BaseException:
        file.close()
        raise


def _open_folder(path: Path, stretch: str | None, wanted: bool) -> Packed:
    raw = read_raw(path)
    source = SafetensorsFolder.open(path)
    try:
        family, config = folder_config(path, raw, source)

        def text() -> Text:
            from hornbook.text.chat import ChatTemplate
            from hornbook.text.tokenizer import Tokenizer

            tokenizer = Tokenizer.from_folder(path)
            return tokenizer, ChatTemplate.from_folder(path, tokenizer)

        return _packed(path, config, family, raw, source, stretch, text if wanted else _unread)
    except BaseException:
        source.close()
        raise


def _packed(
    path: Path, config: ModelConfig, family: Family, metadata: Mapping[str, Any], source: FileSource,
    stretch: str | None, text: Callable[[], Text],
) -> Packed:  # fmt: skip
    if stretch:
        config = stretched(config, stretch)
    shapes = parameters(config)
    weights = pack(fit(config, family, source, shapes), source, shapes)
    aside = ThreadPoolExecutor(1, "tokenizer")
    try:
        return Packed(path, config, family, metadata, weights, source, aside.submit(text))
    finally:
        aside.shutdown(wait=False)


def _unread() -> Text:
    raise UsageError("the model was opened without its tokenizer", "Open it with text=True.")


def pack(fitted: Fitted, source: FileSource, shapes: Mapping[str, Shape]) -> dict[str, PackedTensor]:
    """The parameters of ``shapes``, by name and in their order. Raises UnsupportedModel as ``open_packed`` does."""
    found = {one.name: one for rule in fitted.rules for one in _tensors(rule, fitted.names, source, shapes)}
    return {name: found[name] for name in shapes}


def _tensors(
    rule: Rule, names: Mapping[str, str], source: FileSource, shapes: Mapping[str, Shape]
) -> Iterator[PackedTensor]:
    theirs = tuple(names[name] for name in rule.theirs)
    infos = [source.tensors[name] for name in theirs]
    orders = _orders(rule, infos[0].shape, shapes) if len(theirs) == 1 else None

    def values(i: int) -> Floats:
        values = rule.transform.ours(tuple(source.tensor(name) for name in theirs))[i]
        return np.ascontiguousarray(values, np.float32)

    def release() -> None:
        for name in theirs:
            source.release(name)

    if isinstance(rule.transform, Stacked) and len({info.type for info in infos}) == 1:
        (name,) = rule.ours
        raw = partial(_one_behind_the_other, source, theirs)
        yield PackedTensor(name, infos[0].type, shapes[name], None, raw, partial(values, 0), release)
        return
    if orders is None:
        _computable(infos)
    for i, name in enumerate(rule.ours):
        if orders is None:
            raw = partial(_bytes_of, partial(values, i))
            yield PackedTensor(name, "F32", shapes[name], None, raw, partial(values, i), release)
        else:
            raw = partial(source.raw, theirs[0])
            yield PackedTensor(name, infos[0].type, shapes[name], orders[i], raw, partial(values, i), release)


def _computable(infos: list[Any]) -> None:
    for info in infos:
        if info.type not in FLOATS and len(info.shape) > 1:
            raise UnsupportedModel(
                f"{info.name} is of type {info.type}, and more than the order of its rows would have to be changed",
                "Take the model in float32 or float16, or run it with torch.",
            )


def _one_behind_the_other(source: FileSource, names: tuple[str, ...]) -> Bytes:
    joined = np.empty(sum(source.tensors[name].nbytes for name in names), np.uint8)
    at = 0
    for name in names:
        raw = source.raw(name)
        joined[at : at + raw.size] = raw
        at += raw.size
        source.release(name)  # else the file's pages, these and what is packed of them would be in memory at once
    return joined


def _bytes_of(values: Callable[[], Floats]) -> Bytes:
    return values().view(np.uint8).reshape(-1)


def _orders(rule: Rule, shape: Shape, shapes: Mapping[str, Shape]) -> list[Order | None] | None:
    """For each tensor of ours which rows of theirs it is made of (None: of all, as they stand), or None where it is made in
    another way: a vector, or a transform that does more than move rows."""
    if len(shape) == 1:
        return None
    if rule.transform == SAME:
        return [None]
    numbers = np.arange(1, shape[0] + 1, dtype=np.int32)
    try:
        moved = rule.transform.ours((numbers.view(_ROW)[:, None],))
    except TypeError:  # it computes
        return None
    orders: list[Order | None] = []
    for name, rows in zip(rule.ours, moved, strict=True):
        if shapes[name] != (len(rows), shape[1]) or rows.shape[1:] != (1,):
            return None  # it moves columns
        order = np.ascontiguousarray(rows).view(np.int32).reshape(-1) - 1
        if (order < 0).any():
            return None  # it adds rows of nothing
        whole = len(order) == shape[0] and np.array_equal(order, numbers - 1)
        orders.append(None if whole else order)
    return orders


def held(name: str, values: Floats, *, quantize: str | None = None) -> PackedTensor:
    """A parameter from memory, [*shape] float32; ``quantize``: the type that a matrix gets, where its columns fit its blocks."""
    type = quantize.upper() if quantize and values.ndim > 1 else "F32"
    if values.shape[-1] % BY_NAME[type].block:
        type = "F32"
    values = np.ascontiguousarray(values, np.float32)
    flat = partial(values.view(np.uint8).reshape, -1)
    rows = values.reshape(-1, values.shape[-1])  # of a stack, those of all its matrices
    raw = flat if type == "F32" else partial(quantized, rows, type, name=name)
    return PackedTensor(name, type, values.shape, None, raw, lambda: values, lambda: None)


def rounded(tensor: PackedTensor, type: str) -> PackedTensor:
    """A matrix of float32 as a quantised type, which it becomes when it is read: only one at a time is in memory as both.
    What is something else, or does not fit the type's blocks, stays as it is."""
    if tensor.type != "F32" or len(tensor.shape) < 2 or tensor.shape[-1] % BY_NAME[type].block:
        return tensor
    return replace(tensor, type=type, order=None, _raw=lambda: held(tensor.name, tensor.values(), quantize=type).raw)


def _damaged(name: str, count: int) -> ModelFileError:
    return ModelFileError(f"{name} has {count:,} weights that are not finite numbers", AGAIN)
