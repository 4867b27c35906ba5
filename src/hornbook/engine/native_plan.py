"""A plan and weights -> the hb_op array that the native kernels run, and what its pointers point at.

    Linear(qkv, normed, (query, key, value))  ->  HB_LINEAR, registers by number, three hb_weight, biases
    Turn(qkv, 0, 12, 64, rotary)              ->  HB_ROTARY, a table of cosines and sines [positions, 64]
    Mix(y, normed, "blocks.0.feedforward")    ->  HB_LINEAR of the router, HB_MIX (native_mixture.py)

Each weight is packed once, however many operations read it: a head that is tied costs nothing. What a file of floats
says of a norm or a bias is a vector here; all else is a packed matrix. See native/hornbook.h for what an hb_op says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

import numpy as np

from hornbook.checkpoint.family import AGAIN
from hornbook.checkpoint.packed import PackedTensor
from hornbook.engine.executor import Floats
from hornbook.engine.native_mixture import Experts, NativeOp, Weigh, matrices, native_ops
from hornbook.engine.plan import Act, Add, Attend, Cap, Embed, Gate, HeadNorm, Linear, Mix, Norm, Plan, Select, Turn
from hornbook.errors import ModelFileError
from hornbook.kernels import library
from hornbook.kernels.library import Library
from hornbook.kernels.weight import TYPES, Weight
from hornbook.model.config import Rotary
from hornbook.model.position_tables import RotaryTable, alibi_slopes, sinusoids

# hb_kind and hb_activation of native/hornbook.h
EMBED, NORM, ADD, LINEAR, GATE, ACT, HEAD_NORM, ROTARY, ATTEND, SELECT, CAP, MIX, WEIGH = range(1, 14)
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
WIDEST = 4096  # what the kernels take of key heads, and as the width of a head
FURTHEST = 2**31 - 1  # an hb_op's integers have 32 bits


def obstacle(plan: Plan, weights: Mapping[str, PackedTensor] | None = None) -> str | None:
    """Why the native kernels cannot run this plan ("has 8,192 dimensions in a head, and ..."), or None."""
    for what, count in (("key heads", plan.config.kv_heads), ("dimensions in a head", plan.config.head_width)):
        if count > WIDEST:
            return f"has {count:,} {what}, and {WIDEST:,} is the most"
    for name in () if weights is None else matrices(plan):
        if weights is not None and weights[name].type not in TYPES:
            return f"holds {name} as {weights[name].type}"
    return None


class NativePlan:
    """``ops`` and ``widths`` for hb_model_create; all that they point at lives as long as this object, and is its own.

    ``positions``: how many a sequence can have, which is how long the tables are. ``length``: what rotary scalings take
    that follow the length.
    """

    def __init__(
        self, plan: Plan, weights: Mapping[str, PackedTensor], kernels: Library, positions: int, length: int
    ) -> None:
        self._plan, self._kernels = plan, kernels
        self._source = weights
        self._positions, self._length = positions, length
        self.weights: dict[str, Weight] = {}
        self._vectors: dict[tuple[str, float], Floats] = {}
        self._tables: dict[Rotary, RotaryTable] = {}
        self._kept: list[Floats] = []
        ops, widths = native_ops(plan)
        self._registers = {name: number for number, name in enumerate(widths)}
        self.widths = np.array(list(widths.values()), np.int32)
        self.ops = (library.Op * len(ops))(*map(self._encode, ops))
        self._source = {}  # what it was made from may be a whole model in float32

    @property
    def bytes(self) -> int:
        """What weights, vectors and tables take."""
        arrays = [*self._vectors.values(), *(table.values for table in self._tables.values()), *self._kept]
        return sum(weight.bytes for weight in self.weights.values()) + sum(array.nbytes for array in arrays)

    def close(self) -> None:
        """Free the weights; no model may use ``ops`` any more."""
        self.weights.clear()

    # ------------------------------------------------------------------------------------------------ operations

    def _encode(self, op: NativeOp) -> library.Op:
        if isinstance(op, Embed):
            table = self._positions_table(op)
            sizes: tuple[int, ...] = (op.offset, 0 if table is None else len(table))
            return self._op(EMBED, "", "", op.out, sizes, (op.scale,), [op.tokens], [table])
        if isinstance(op, Norm):
            width = self._plan.widths[op.a]
            bias = None if op.bias is None else self._vector(op.bias, width)
            vectors = [self._vector(op.weight, width, op.shift), bias]
            return self._op(NORM, op.a, "", op.out, (int(op.kind == "layer"),), (op.epsilon,), vectors=vectors)
        if isinstance(op, Add):
            return self._op(ADD, op.a, op.b, op.out)
        if isinstance(op, Linear):
            biases = [
                None if bias is None else self._vector(bias, self._source[weight].shape[0])
                for bias, weight in zip(op.biases, op.weights, strict=True)
            ]
            return self._op(LINEAR, op.a, "", op.out, (len(op.weights), op.site), (), list(op.weights), biases)
        if isinstance(op, (Gate, Act)):
            kind = GATE if isinstance(op, Gate) else ACT
            return self._op(kind, op.a, "", op.out, (ACTIVATIONS[op.activation],))
        if isinstance(op, HeadNorm):
            weight = self._vector(op.weight, op.width, op.shift)
            return self._op(HEAD_NORM, op.a, "", op.a, (op.start, op.groups, op.width), (op.epsilon,), vectors=[weight])
        if isinstance(op, Turn):
            turned = self._plan.config.rotary_width(op.rotary)
            sizes = (op.start, op.heads, op.width, turned, int(op.rotary.interleaved), self._positions)
            return self._op(ROTARY, op.a, "", op.a, sizes, vectors=[self._turns(op.rotary, turned)])
        if isinstance(op, Attend):
            window = min(op.window or 0, FURTHEST)  # further than any text is long
            sizes = (op.heads, op.kv_heads, op.head_width, op.layer, window, int(op.causal))
            slopes = None if op.alibi is None else self._keep(alibi_slopes(op.heads, op.alibi))
            return self._op(ATTEND, op.a, "", op.out, sizes, (op.scale, op.softcap or 0.0), vectors=[slopes])
        if isinstance(op, Select):
            return self._op(SELECT, op.a, "", op.out)
        if isinstance(op, Cap):
            return self._op(CAP, op.a, "", op.out, (), (op.scale, op.cap or 0.0))
        if isinstance(op, Experts):
            sizes = (op.top, int(op.renormalise), ACTIVATIONS[op.activation])
            return self._op(MIX, op.a, op.scores, op.out, sizes, (), list(op.weights))
        if isinstance(op, Weigh):
            return self._op(WEIGH, op.a, op.weight, op.out)
        assert not isinstance(op, Mix), "its parts stand in its place"
        assert_never(op)

    def _op(
        self, kind: int, a: str, b: str, out: str, ints: tuple[int, ...] = (), floats: tuple[float, ...] = (),
        weights: list[str] | None = None, vectors: list[Floats | None] | None = None,
    ) -> library.Op:  # fmt: skip
        op = library.Op(kind=kind, a=self._registers.get(a, -1), b=self._registers.get(b, -1), out=self._registers[out])
        op.i[: len(ints)] = ints
        op.f[: len(floats)] = floats
        for i, name in enumerate(weights or []):
            op.weight[i] = self._weight(name).handle
        for i, vector in enumerate(vectors or []):
            op.w[i] = None if vector is None else vector.ctypes.data
        return op

    # --------------------------------------------------------------------------------------- what the pointers need

    def _weight(self, name: str) -> Weight:
        if name not in self.weights:
            tensor = self._source[name]
            *stack, rows, cols = tensor.shape  # a mixture's [E, I, C], any other [out, in]
            experts = stack[0] if stack else None
            self.weights[name] = Weight(self._kernels, tensor.type, rows, cols, tensor.raw, tensor.order, experts)
            tensor.release()  # the file's pages and the packed weight must not be in memory together
        return self.weights[name]

    def _vector(self, name: str, width: int, shift: float = 0.0) -> Floats:
        if (name, shift) not in self._vectors:
            values = np.array(self._source[name].values(), np.float32)  # a copy, where a float lies as a float must
            if values.shape != (width,):  # the kernels read as many as the plan says
                raise ModelFileError(f"{name} has the shape {list(values.shape)}, not [{width}]", AGAIN)
            self._vectors[name, shift] = values + np.float32(shift) if shift else values
        return self._vectors[name, shift]

    def _turns(self, rotary: Rotary, width: int) -> Floats:
        if rotary not in self._tables:
            self._tables[rotary] = RotaryTable(rotary, width, self._positions, self._length)
        return self._tables[rotary].values

    def reach(self, positions: int) -> None:
        """Let so many positions be known before a step that has them."""
        for table in self._tables.values():
            table.reach(positions)

    def _positions_table(self, op: Embed) -> Floats | None:
        """What is added to a token at each position: its vector, and that of the tokens' only type."""
        width = self._plan.widths[op.out]
        added: Any = None
        if op.positions == "sinusoidal":
            added = sinusoids(self._positions, width)
        elif op.positions is not None:
            added = self._source[op.positions].values()
        if op.types is not None:
            first = self._source[op.types].values()[0]
            added = np.tile(first, (self._positions, 1)) if added is None else added + first
        if added is None:
            return None
        if added.ndim != 2 or added.shape[1] != width:
            raise ModelFileError(f"the table of positions has the shape {list(added.shape)}, not [.., {width}]", AGAIN)
        return self._keep(added)

    def _keep(self, values: Any) -> Floats:
        self._kept.append(np.array(values, np.float32, order="C"))
        return self._kept[-1]
