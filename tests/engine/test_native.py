"""The native executor: the Transformer's numbers for every family, the same bits however tokens are batched, and no torch."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hornbook.checkpoint import drift, load
from hornbook.checkpoint.packed import held, open_packed
from hornbook.engine.executor import PAGE, Batch
from hornbook.engine.lower import lower
from hornbook.engine.native import NativeExecutor, page_bytes, supports
from hornbook.engine.plan import Linear
from hornbook.errors import GenerationError, ModelClosed, ModelFileError, UnsupportedModel, UsageError
from hornbook.kernels import library
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import LayerKind, ModelConfig, Rotary, RotaryScaling
from hornbook.model.transformer import Transformer
from hornbook.settings import Settings

sys.path.append(str(Path(__file__).parents[1] / "checkpoint"))
import test_family_decoders
from family_parity import CLOSE, Case, loaded, relative

CASES = test_family_decoders.CASES


@pytest.fixture(autouse=True)
def kernels() -> None:
    if library.library(Settings()) is None:
        pytest.skip(f"no native kernels: {library.why_not(Settings())}")


class Texts:
    """Sequences of an executor, each with the pages that it needs, in no order."""

    def __init__(self, executor: NativeExecutor, *texts: Sequence[int], room: int = 0) -> None:
        self.executor, self.texts = executor, [list(text) for text in texts]
        counts = [-(-(len(text) + room) // PAGE) for text in texts]
        free = iter(np.random.default_rng(0).permutation(executor.pages).tolist())
        self.pages = np.zeros((len(texts), max(counts)), np.int32)
        for row, count in enumerate(counts):
            self.pages[row, :count] = [next(free) for _ in range(count)]
        self.done = [0] * len(texts)

    def step(self, *counts: int, adapters: Sequence[int] | None = None) -> list[np.ndarray[Any, Any]]:
        """So many further tokens of each text -> logits [count, V] of each."""
        parts = [text[done : done + count] for text, done, count in zip(self.texts, self.done, counts, strict=True)]
        there = [i for i, part in enumerate(parts) if part]
        sizes = [len(parts[i]) for i in there]
        numbers = None if adapters is None else np.repeat([adapters[i] for i in there], sizes).astype(np.int32)
        batch = Batch(
            ids=np.array([id for i in there for id in parts[i]], np.int32),
            positions=np.array([self.done[i] + j for i in there for j in range(len(parts[i]))], np.int32),
            sequence=np.repeat(np.arange(len(there)), sizes).astype(np.int32),
            pages=self.pages[there],
            lengths=np.array([self.done[i] + len(parts[i]) for i in there], np.int32),
            select=np.arange(sum(sizes), dtype=np.int32),
            adapters=numbers,
        )
        out = self.executor.run(batch).copy()
        ends = np.cumsum([len(part) for part in parts])
        self.done = [done + len(part) for done, part in zip(self.done, parts, strict=True)]
        return np.split(out, ends[:-1])


def made(config: ModelConfig, seed: int = 0, **more: Any) -> tuple[Transformer, NativeExecutor]:
    """A Transformer of random weights that leave no part without effect, and the executor of it."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        spread = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        parameter += spread * torch.randn(parameter.shape, generator=generator)
    weights = {name: held(name, weight.numpy()) for name, weight in model.named_parameters()}
    return model, NativeExecutor(lower(config), weights, more.pop("pages", 32), **more)


def config(**changes: Any) -> ModelConfig:
    said: dict[str, Any] = {
        "vocab_size": 131, "layers": 3, "width": 48, "heads": 6, "kv_heads": 2, "head_width": 8,
        "feedforward_width": 80, "context_length": 256, "pattern": (LayerKind(None, Rotary()),), "qkv_bias": True,
    }  # fmt: skip
    return ModelConfig(**said | changes)


def ids(count: int, vocab: int = 97, seed: int = 2) -> list[int]:
    return np.random.default_rng(seed).integers(3, vocab, count).tolist()


def expected(model: Transformer, text: list[int], capacity: int | None = None) -> torch.Tensor:
    """Logits [T, V]."""
    cache = None if capacity is None else ContiguousCache(model.config, 1, capacity)
    with torch.inference_mode():
        logits = model(torch.tensor([text]), cache=cache).logits
    assert logits is not None
    return logits[0]


# --------------------------------------------------------------------------------------------- the Transformer's numbers


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_family_s_logits_are_those_of_the_transformer(case: Case, tmp_path: Path) -> None:
    checkpoint = loaded(case, tmp_path)
    with open_packed(tmp_path) as packed:
        executor = NativeExecutor(lower(packed.config), packed.weights, 8)
    text = ids(41)
    reading = Texts(executor, text)
    found = np.concatenate([reading.step(count)[0] for count in (23, 1, 1, 16)])
    wanted = expected(checkpoint.model, text, checkpoint.config.context_length)
    assert relative(torch.from_numpy(found), wanted) < CLOSE


VARIANTS = {
    "sinusoids": {"positions": "sinusoidal", "pattern": (LayerKind(),)},
    "learned positions, from the third row": {"positions": "learned", "position_offset": 2, "pattern": (LayerKind(),)},
    "one type of token": {"token_types": 2},
    "a narrow table": {"embedding_width": 16, "embedding_norm": True, "norm": "layer", "tied_head": True, "head_transform": True},
    "shared layers": {"layer_groups": 1},
    "caps": {"attention_softcap": 3.0, "logit_softcap": 2.0, "logit_scale": 0.5, "head_bias": True},
    "neighbours turn": {"pattern": (LayerKind(7, Rotary(interleaved=True, width=6)), LayerKind(None, Rotary(500.0)))},
    "norms of queries over all": {"qk_norm": "all", "norm_offset": 1.0, "norm_placement": "both"},
    "after the sum": {"norm_placement": "post", "gated": False, "activation": "relu", "feedforward_bias": True},
    "tied": {"tied_head": True, "embedding_scale": 3.0},
    "no language head": {"language_head": False},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_what_no_family_here_has_is_computed_as_the_transformer_does(name: str) -> None:
    model, executor = made(config(**VARIANTS[name]))
    text = ids(40)
    reading = Texts(executor, text)
    found = torch.from_numpy(np.concatenate([reading.step(count)[0] for count in (17, 1, 22)]))
    if model.head is None:
        with torch.inference_mode():
            assert relative(found, model(torch.tensor([text]), logits="none").hidden[0]) < CLOSE
    else:
        assert relative(found, expected(model, text)) < CLOSE


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_follow_the_length_take_the_whole_context(kind: Any) -> None:
    """As a cache of that capacity has it: all keys in it turn alike."""
    scaling = RotaryScaling(kind, 4.0, 64, factors=(1.0, 1.5, 2.0, 3.0), long_factors=(1.0, 2.0, 4.0, 8.0))
    model, executor = made(config(pattern=(LayerKind(None, Rotary(scaling=scaling)),)), context_length=200)
    assert executor.context_length == 200
    text = ids(50)
    (found,) = Texts(executor, text).step(50)
    assert relative(torch.from_numpy(found), expected(model, text, 200)) < CLOSE
    assert relative(torch.from_numpy(found), expected(model, text)) > 100 * CLOSE


def test_far_positions_turn_as_near_ones_do() -> None:
    """The table of a long context is computed as texts reach: its end must be right too."""
    long = config(context_length=20_000, layers=1)
    model, executor = made(long, pages=1250)
    text = ids(1500)
    reading = Texts(executor, text)
    found = np.concatenate([reading.step(count)[0] for count in (600, 500, 400)])
    assert relative(torch.from_numpy(found), expected(model, text)) < CLOSE


# ------------------------------------------------------------------------------------------------------- the same bits


@pytest.fixture(scope="module")
def shared_model() -> tuple[Transformer, NativeExecutor]:
    if library.library(Settings()) is None:
        pytest.skip("no native kernels")
    windowed = (LayerKind(9, Rotary()), LayerKind(None, Rotary()))
    return made(config(pattern=windowed, layers=4), pages=64)


def test_prefill_decode_chunks_and_company_change_no_bit(shared_model: tuple[Transformer, NativeExecutor]) -> None:
    _, executor = shared_model
    texts = [ids(count, seed=count) for count in (40, 33, 1, 58)]
    alone = [Texts(executor, text).step(len(text))[0] for text in texts]
    ragged, rng = Texts(executor, *texts), np.random.default_rng(1)
    parts: list[list[Any]] = [[] for _ in texts]
    while ragged.done != [len(text) for text in texts]:
        for part, logits in zip(
            parts, ragged.step(*rng.integers(0, 9, 4).clip(ragged.done == [0] * 4).tolist()), strict=True
        ):
            part.append(logits)
    for part, whole in zip(parts, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(part), whole)


def test_any_number_of_threads_gives_the_same_bits(shared_model: tuple[Transformer, NativeExecutor]) -> None:
    _, executor = shared_model
    text, kernels = ids(90), library.library(Settings())
    assert kernels is not None
    found = []
    try:
        for threads in (1, 2, 3):
            kernels.hb_set_threads(threads)
            found.append(Texts(executor, text).step(90)[0])
    finally:
        kernels.hb_set_threads(Settings().threads)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_only_the_rows_that_are_selected_come_back(shared_model: tuple[Transformer, NativeExecutor]) -> None:
    _, executor = shared_model
    text = ids(20)
    (whole,) = Texts(executor, text).step(20)
    a = Texts(executor, text)
    batch = Batch(
        np.array(text, np.int32), np.arange(20, dtype=np.int32), np.zeros(20, np.int32), a.pages,
        np.array([20], np.int32), np.array([19, 3], np.int32),
    )  # fmt: skip
    np.testing.assert_array_equal(executor.run(batch), whole[[19, 3]])


def test_a_piece_of_a_prompt_of_which_nothing_is_wanted_fills_its_pages(
    shared_model: tuple[Transformer, NativeExecutor],
) -> None:
    _, executor = shared_model
    text = ids(40)
    whole = Texts(executor, text)
    (last,) = whole.step(40)
    wanted = last[-1].copy()
    pages = np.arange(3, dtype=np.int32)[None]

    def run(begin: int, end: int, select: list[int]) -> np.ndarray[Any, Any]:
        places = np.arange(begin, end, dtype=np.int32)
        lengths = np.array([end], np.int32)
        piece = np.array(text[begin:end], np.int32)
        return executor.run(Batch(piece, places, places * 0, pages, lengths, np.array(select, np.int32)))

    assert run(0, 23, []).shape == (0, executor.vocab_size)
    assert np.array_equal(run(23, 40, [16])[0], wanted)


def test_a_copied_page_is_the_same_beginning(shared_model: tuple[Transformer, NativeExecutor]) -> None:
    _, executor = shared_model
    text = ids(30)
    first = Texts(executor, text, room=PAGE)
    first.step(29)
    copies = next(page for page in range(executor.pages) if page not in first.pages)
    executor.copy_page(int(first.pages[0, 1]), copies)
    second = Texts(executor, text, room=PAGE)
    second.pages, second.done = first.pages.copy(), [29]
    second.pages[0, 1] = copies
    np.testing.assert_array_equal(first.step(1)[0], second.step(1)[0])


@pytest.mark.parametrize(("cache", "within"), [("float16", 2e-3), ("int8", 5e-2)])
def test_a_smaller_cache_is_nearly_as_good(cache: Any, within: float) -> None:
    model, executor = made(config(), cache=cache)
    assert executor.page_bytes == page_bytes(executor.plan, cache) < page_bytes(executor.plan, "float32")
    text = ids(50)
    reading = Texts(executor, text)
    found = np.concatenate([reading.step(count)[0] for count in (30, 1, 19)])
    assert relative(torch.from_numpy(found), expected(model, text)) < within


# ----------------------------------------------------------------------------------------------------------- adapters


def test_adapters_of_one_batch_each_change_their_own_texts(shared_model: tuple[Transformer, NativeExecutor]) -> None:
    model, executor = shared_model
    rng = np.random.default_rng(5)
    names = ["blocks.0.attention.query.weight", "blocks.0.attention.value.weight", "blocks.2.feedforward.down.weight"]

    def low_rank(rank: int) -> dict[str, Any]:
        shapes = {name: tuple(model.get_parameter(name).shape) for name in names}
        return {
            name: (
                rng.normal(size=(rank, cols)).astype(np.float32),
                rng.normal(size=(rows, rank)).astype(np.float32),
                0.1,
            )
            for name, (rows, cols) in shapes.items()
        }

    adapters = [low_rank(3), low_rank(2)]
    text = ids(25)
    (plain,) = Texts(executor, text).step(25)
    numbers = [executor.add_adapter(adapter) for adapter in adapters]
    mixed = Texts(executor, text, text, text).step(25, 25, 25, adapters=[numbers[1], -1, numbers[0]])
    np.testing.assert_array_equal(mixed[1], plain)
    for adapter, number, found in ((adapters[1], numbers[1], mixed[0]), (adapters[0], numbers[0], mixed[2])):
        (alone,) = Texts(executor, text).step(25, adapters=[number])
        np.testing.assert_array_equal(found, alone)
        merged = Transformer(model.config).requires_grad_(False).eval()
        merged.load_state_dict(model.state_dict())
        for name, (a, b, scale) in adapter.items():
            merged.get_parameter(name).add_(torch.from_numpy(scale * (b @ a)))
        assert relative(torch.from_numpy(found), expected(merged, text)) < CLOSE
    for number in numbers:
        executor.remove_adapter(number)
    for again in (
        lambda: executor.remove_adapter(numbers[0]),
        lambda: Texts(executor, text).step(5, adapters=numbers[:1]),
    ):
        with pytest.raises(UsageError, match=f"there is no adapter {numbers[0]}"):
            again()


WRONG = {
    "is no linear layer": ("blocks.9.attention.query.weight", (2, 48), (48, 2)),
    r"are \[2, 47\] and \[48, 2\], and the weight is \[48, 48\]": ("blocks.0.attention.query.weight", (2, 47), (48, 2)),
    r"are \[2, 48\] and \[48, 3\]": ("blocks.0.attention.query.weight", (2, 48), (48, 3)),
}


@pytest.mark.parametrize("words", WRONG)
def test_an_adapter_of_another_model_is_refused(words: str, shared_model: tuple[Transformer, NativeExecutor]) -> None:
    name, a, b = WRONG[words]
    with pytest.raises(UsageError, match=words):
        shared_model[1].add_adapter({name: (np.ones(a, np.float32), np.ones(b, np.float32), 1.0)})


# ------------------------------------------------------------------------------------------------------------- errors


BAD = {
    r"id 131: ids are 0 \.\. 130": {"ids": [5, 131]},
    "id -1": {"ids": [-1, 5]},
    r"position 256: the model has 0 \.\. 255": {"positions": [255, 256]},
    r"is 64: the cache has 0 \.\. 63": {"pages": [[64]]},
    "row 0 is of token 2": {"select": [2]},
    "is of sequence 1": {"sequence": [0, 1]},
    "17 tokens": {"lengths": [17]},
    "a batch of 0 tokens": {"ids": [], "positions": [], "sequence": []},
    "not of one length": {"positions": [0]},
    "arrays of a batch are not of one length": {"adapters": [-1]},
}


@pytest.mark.parametrize("words", BAD)
def test_a_batch_that_would_reach_out_of_bounds_is_an_error(
    words: str, shared_model: tuple[Transformer, NativeExecutor]
) -> None:
    good = {"ids": [5, 6], "positions": [0, 1], "sequence": [0, 0], "pages": [[1]], "lengths": [2], "select": [1]}
    batch = Batch(**{name: np.array(value, np.int32) for name, value in (good | BAD[words]).items()})
    with pytest.raises(GenerationError, match=words):
        shared_model[1].run(batch)


def test_what_is_closed_says_so() -> None:
    _, executor = made(config())
    reading = Texts(executor, ids(5))
    executor.close()
    executor.close()
    for use in (
        lambda: reading.step(5),
        lambda: executor.copy_page(0, 1),
        lambda: executor.add_adapter({}),
        lambda: executor.scratch_bytes(1, 1),
    ):
        with pytest.raises(ModelClosed):
            use()


def test_what_the_kernels_do_not_know_is_not_for_them_and_says_why() -> None:
    model = Transformer(config()).requires_grad_(False)
    weights = {name: held(name, weight.numpy()) for name, weight in model.named_parameters()}
    name = "blocks.1.feedforward.up.weight"
    strange = weights | {name: replace(weights[name], type="IQ2_XS")}
    assert f"holds {name} as IQ2_XS" in (supports(lower(config()), strange) or "")
    with pytest.raises(UnsupportedModel, match="as IQ2_XS"):
        NativeExecutor(lower(config()), strange, 4)
    assert supports(lower(config()), weights) is None
    assert "turned off" in (supports(lower(config()), settings=Settings(native=False)) or "")


def test_a_weight_that_is_no_number_is_named_before_anything_runs() -> None:
    model = Transformer(config()).requires_grad_(False)
    model.blocks[1].feedforward.up.weight[3, 3] = torch.inf
    weights = {name: held(name, weight.numpy()) for name, weight in model.named_parameters()}
    with pytest.raises(ModelFileError, match=r"blocks\.1\.feedforward\.up\.weight has 1 weights"):
        NativeExecutor(lower(config()), weights, 4)


def test_a_vector_of_another_length_is_named_before_anything_reads_past_it() -> None:
    model = Transformer(config()).requires_grad_(False)
    weights = {name: held(name, weight.numpy()) for name, weight in model.named_parameters()}
    for name in ("blocks.1.attention_norm.weight", "blocks.0.attention.key.bias"):
        short = weights | {name: held(name, np.ones(7, np.float32))}
        with pytest.raises(ModelFileError, match=rf"{name} has the shape \[7\]".replace(".", r"\.")):
            NativeExecutor(lower(config()), short, 4)


def test_what_the_kernels_cannot_count_is_refused_or_means_everything() -> None:
    wide = config(heads=1, kv_heads=1, head_width=8192)
    assert "has 8,192 dimensions in a head, and 4,096 is the most" in (supports(lower(wide)) or "")
    many = config(heads=8192, kv_heads=8192)
    assert "has 8,192 key heads" in (supports(lower(many)) or "")
    for pages in (0, -1, 2**31, 2**32 + 5):
        with pytest.raises(UsageError, match=f"a cache of {pages:,} pages"):
            made(config(), pages=pages)
    text = ids(30)
    model, executor = made(config(pattern=(LayerKind(2**32 + 3, Rotary()),)))  # in 32 bits a window of 3
    assert relative(torch.from_numpy(Texts(executor, text).step(30)[0]), expected(model, text)) < CLOSE


def test_what_an_executor_was_made_from_does_not_stay_in_memory() -> None:
    model = Transformer(config()).requires_grad_(False)
    arrays = {name: weight.numpy().copy() for name, weight in model.named_parameters()}
    weights = {name: held(name, array) for name, array in arrays.items()}
    executor = NativeExecutor(lower(config()), weights, 4)
    gone = [weakref.ref(array) for array in arrays.values()]
    arrays.clear(), weights.clear()
    gc.collect()
    assert executor.weight_bytes > 0
    assert [one for one in gone if one() is not None] == []


# -------------------------------------------------------------------------------------------------------- real models


@pytest.mark.parametrize("name", ["smollm2_path", "gemma_path"])
def test_a_real_quantised_model_keeps_what_its_file_says(name: str, request: pytest.FixtureRequest) -> None:
    """Against float32 over the very same weights: only activations are rounded, to eight bits a number."""
    path = request.getfixturevalue(name)
    checkpoint = load(path, device="cpu", dtype="float32")
    with open_packed(path) as packed:
        executor = NativeExecutor(lower(packed.config), packed.weights, 16, context_length=256)
    text = checkpoint.tokenizer.encode(drift.text())[:96]
    reading = Texts(executor, text)
    found = np.concatenate([reading.step(count)[0] for count in (70, 1, 25)])
    np.testing.assert_array_equal(found, Texts(executor, text).step(96)[0])
    wanted = expected(checkpoint.model.requires_grad_(False), text).log_softmax(-1)
    ours = torch.from_numpy(found).log_softmax(-1)
    kl = (wanted.exp() * (wanted - ours)).sum(-1).mean().item()
    same = (ours.argmax(-1) == wanted.argmax(-1)).float().mean().item()
    size = path.stat().st_size
    print(f"\n{name}: KL {kl:.5f}, {same:.1%} same first choice; {executor.weight_bytes / size:.3f} of the file")
    assert kl < 0.01 and same > 0.94
    assert executor.weight_bytes < 1.1 * size


PROGRAM = """
import sys
import numpy as np
from hornbook.checkpoint.packed import open_packed
from hornbook.engine.executor import Batch
from hornbook.engine.lower import lower
from hornbook.engine.native import NativeExecutor
with open_packed(sys.argv[1]) as packed:
    executor = NativeExecutor(lower(packed.config), packed.weights, 512)
    ids = np.array((packed.tokenizer.encode("Once upon a time") * 500)[:2000], np.int32)
for start in range(0, 2000, 500):
    part = np.arange(start, start + 500, dtype=np.int32)
    one = np.array([start + 500], np.int32)
    executor.run(Batch(ids[part], part, 0 * part, np.arange(125, dtype=np.int32)[None], one, one - start - 1))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = 1024 * int(status["VmHWM"].split()[0])
print(peak, executor.page_bytes * 125, "torch" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured through /proc")
def test_a_process_needs_little_beyond_the_file_and_no_torch(smollm2_path: Path) -> None:
    """Python, its libraries, the vocabulary, 2,000 tokens of keys and values, a step's registers: all in 250 MB."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM, smollm2_path], capture_output=True, text=True, check=True)
    peak, cache, torch_there = ran.stdout.split()
    beyond = int(peak) - smollm2_path.stat().st_size
    print(f"\n{beyond / 1e6:.0f} MB beyond the file, {int(cache) / 1e6:.0f} MB of them keys and values")
    assert beyond < 250e6
    assert torch_there == "False"


LEFT = """
import sys, threading
import numpy as np
from hornbook.checkpoint.packed import open_packed
from hornbook.engine.executor import Batch
from hornbook.engine.lower import lower
from hornbook.engine.native import NativeExecutor
with open_packed(sys.argv[1]) as packed:
    executor = NativeExecutor(lower(packed.config), packed.weights, 8)
part, one = np.arange(128, dtype=np.int32), np.array([128], np.int32)
batch = Batch(part, part, 0 * part, np.arange(8, dtype=np.int32)[None], one, one - 1)
at_work = threading.Event()
def run():
    while True:
        executor.run(batch)
        at_work.set()
threading.Thread(target=run, daemon=True).start()
at_work.wait()
"""


def test_python_can_end_while_a_thread_is_inside_a_step(smollm2_path: Path) -> None:
    """What is freed at the end must not be what a thread in the background still reads."""
    ran = subprocess.run([sys.executable, "-c", LEFT, smollm2_path], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_encoder_sees_its_texts_whole_and_apart(minilm_path: Path) -> None:
    checkpoint = load(minilm_path, device="cpu", dtype="float32")
    with open_packed(minilm_path) as packed:
        executor = NativeExecutor(lower(packed.config), packed.weights, 0)
    assert (executor.pages, executor.page_bytes) == (0, 0)
    texts = [checkpoint.tokenizer.encode(text) for text in ("Wie spät ist es?", "今天天气很好。" * 9, "Hi")]
    lengths = np.array([len(text) for text in texts], np.int32)
    batch = Batch(
        ids=np.array(sum(texts, []), np.int32),
        positions=np.concatenate([np.arange(n) for n in lengths]).astype(np.int32),
        sequence=np.repeat(np.arange(3), lengths).astype(np.int32),
        pages=np.zeros((3, 0), np.int32), lengths=lengths, select=np.zeros(0, np.int32),
    )  # fmt: skip
    hidden = np.split(executor.run(batch), np.cumsum(lengths)[:-1])
    for text, found in zip(texts, hidden, strict=True):
        with torch.inference_mode():
            wanted = checkpoint.model(torch.tensor([text]), logits="none").hidden[0]
        assert relative(torch.from_numpy(found), wanted) < CLOSE


def test_sites_are_counted_once_for_each_linear() -> None:
    sites = [op.site for op in lower(config()).ops if isinstance(op, Linear)]
    assert sites == list(range(len(sites)))
