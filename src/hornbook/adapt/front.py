"""What adapters put before the tokens of every row: learnt vectors (prompts), or keys and values of every layer (prefixes).

    one pass      [ prefix | prompt | a b c d ]     nothing of what stands before is handed out: states and logits are
                                      '-----'       those of the row's own tokens
    with a cache  the front of a row is written into the cache once, before the row's first token; then the model goes on
                  as ever

Prefixes stand before prompts, each in the order in which they were attached. The positions of the tokens count on from
the front, so a row reads the same with a cache and without, padded left, right or not at all.

Legend: B rows, T tokens, n places of the front, L layers, K key heads, D head width, E width of a token's vector.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hornbook.adapt.attached import Adapter, Attached
from hornbook.adapt.inject import Part
from hornbook.errors import HornbookError, UnsupportedModel, UsageError
from hornbook.model.attention import AttentionRule, attend, biased, see
from hornbook.model.cache import Cache
from hornbook.model.positions import order
from hornbook.model.transformer import Output, Transformer

FRONT = "+front"  # the path of such a part: no module of the model


class Prompting(Part):
    """A prompt of ``size`` vectors, which enter as token vectors do."""

    size: int

    def vectors(self) -> Tensor:
        """[n,E]"""
        raise NotImplementedError


class Prefixing(Part):
    """A prefix of ``size`` places in every layer."""

    size: int

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """Each [L,K,n,D]; the keys are those that the tokens' queries meet: nothing turns them any more."""
        raise NotImplementedError


def stand(model: Transformer, adapter: Adapter, part: Prompting | Prefixing, name: str) -> Attached:
    """Attach an adapter that is ``part``, before the tokens of every row.

    Raises UnsupportedModel for a model with an encoder, whose front would be the source's; UsageError as Attached does.
    """
    if model.config.encoder is not None:
        raise UnsupportedModel(
            "the model has an encoder: prompts and prefixes stand before the tokens of a model that has none",
            "Use lora, ia3 or bottleneck.",
        )
    hooks = (
        model.register_forward_pre_hook(partial(_before, part), with_kwargs=True),
        model.register_forward_hook(partial(_after, part), with_kwargs=True),
    )
    try:
        return Attached(model, adapter, name=name, parts={FRONT: part.to(model.device)}, hooks=hooks)
    except HornbookError:
        for hook in hooks:
            hook.remove()
        raise


def size_of(model: nn.Module) -> int:
    """n: how many places of the context, and of each row of a cache, stand before the tokens."""
    return sum(part.size for part in _on(model))


def _on(model: nn.Module) -> list[Prompting | Prefixing]:
    """The parts that are on, in the order of their attachment."""
    attached: Any = getattr(model, "attached", {})
    parts = [part for each in attached.values() for part in each.parts.values()]
    return [part for part in parts if isinstance(part, Prompting | Prefixing) and part.active]


def _prompts(model: nn.Module) -> list[Prompting]:
    return [part for part in _on(model) if isinstance(part, Prompting)]


def _prefixes(model: nn.Module) -> list[Prefixing]:
    return [part for part in _on(model) if isinstance(part, Prefixing)]


# ------------------------------------------------------------------------------------------------------------ a pass


def _before(own: Part, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A forward pre-hook of the Transformer: put the whole front before what is about to be read.

    Every part has registered it; the one of the first part acts for all.
    """
    front = _on(model)
    if not front or front[0] is not own:
        return None
    assert isinstance(model, Transformer)
    given = {**kwargs, **({"ids": args[0]} if args else {})}
    if given.get("segments") is not None:
        raise UsageError(
            "a prompt or prefix stands before each row, and this row packs several documents",
            "Train on padded rows: data.packed=false.",
        )
    if given.get("embeds") is None and given.get("ids") is not None:
        given["embeds"] = model.vectors(given.pop("ids"))
    if given.get("embeds") is None:
        return None  # the model says what is wrong
    for part in front:
        part.train(model.training)
    x, mask, cache, size = given["embeds"], given.get("mask"), given.get("cache"), size_of(model)
    if given.get("positions") is not None:
        given["positions"] = given["positions"] + size
    if cache is not None:
        _fill(model, cache, len(x), mask)
        return (), given
    prompts, prefixes = _prompts(model), _prefixes(model)
    if prompts:
        vectors = _vectors(prompts).to(x)
        given["embeds"] = torch.cat([vectors.expand(len(x), -1, -1), x], dim=1)
        many = len(vectors)
        if mask is not None:
            given["mask"] = torch.cat([mask.new_ones(len(x), many), mask], dim=1)
        if given.get("token_types") is not None:
            types = given["token_types"]
            given["token_types"] = torch.cat([types.new_zeros(len(x), many), types], dim=1)
        if given.get("positions") is not None:
            first = torch.arange(size - many, size, device=x.device)
            given["positions"] = torch.cat([first.expand(len(x), -1), given["positions"]], dim=1)
    if prefixes:
        if given.get("prompts") is None:  # the whole row, as in a pass without a cache
            given["prompts"] = (x.new_ones(x.shape[:2]) if mask is None else mask).sum(-1).long()
        keys, values = _keys_and_values(prefixes)
        given["cache"] = Prefixed(keys.to(x), values.to(x), given["embeds"].shape[1], given.get("mask"))
    return (), given


def _after(own: Part, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Output) -> Output | None:
    """A forward hook of the Transformer: hand out nothing of the front."""
    front, many = _on(model), sum(part.size for part in _prompts(model))
    uncached = kwargs.get("cache") is None or isinstance(kwargs["cache"], Prefixed)
    if not front or front[0] is not own or not many or not uncached:
        return None
    routing = kwargs.get("routing")
    if routing is not None:
        routing[:] = [scores[:, many:] for scores in routing]
    hidden, logits = output
    return Output(hidden[:, many:], logits[:, many:] if logits is not None and logits.dim() == 3 else logits)


@torch.no_grad()
def _fill(model: Transformer, cache: Cache, rows: int, mask: Tensor | None) -> None:
    """Write the front into the cache's rows that are empty and about to get their first token."""
    begins = cache.lengths == 0
    if mask is not None:
        begins = begins & mask.any(-1)
    if not begins.any():
        return
    config, every = model.config, bool(begins.all())

    def real(size: int) -> Tensor | None:
        return None if every else begins[:, None].expand(-1, size)

    if prefixes := _prefixes(model):
        keys, values = (x.to(model.device, model.dtype) for x in _keys_and_values(prefixes))
        size = keys.shape[2]
        cache.begin(rows, size, real(size))
        nothing = keys.new_zeros(rows, config.heads, size, config.head_width)
        for layer in range(config.layers):
            rule = AttentionRule(config.scale, config.causal, config.kind(layer).window)
            k, v = (x[layer].expand(rows, -1, -1, -1) for x in (keys, values))
            cache.attend(layer, nothing, k, v, rule)  # for what it writes; nobody asks anything
        cache.commit()
    if prompts := _prompts(model):
        vectors = _vectors(prompts).to(model.device, model.dtype)
        # forward, and not a call: a call would put the front before this too.
        model.forward(embeds=vectors.expand(rows, -1, -1), mask=real(len(vectors)), cache=cache, logits="none")


def _vectors(prompts: list[Prompting]) -> Tensor:
    return torch.cat([prompt.vectors() for prompt in prompts])


def _keys_and_values(prefixes: list[Prefixing]) -> tuple[Tensor, Tensor]:
    pairs = [prefix.keys_and_values() for prefix in prefixes]
    return torch.cat([keys for keys, _ in pairs], dim=2), torch.cat([values for _, values in pairs], dim=2)


class Prefixed:
    """A cache of one pass over whole rows that is not empty when it begins: every row's tokens see n keys and values.

    keys, values [L,K,n,D]; ``length`` T of the rows, ``mask`` [B,T] as the model's. What is only of use to a text that
    grows is refused.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int, mask: Tensor | None) -> None:
        self.keys, self.values = keys, values
        self.size = keys.shape[2]
        self.capacity = self.size + length
        self.mask = None if mask is None or bool(mask.all()) else mask
        # Where padding follows the tokens, no token of a causal model sees any, whether it is hidden or not.
        self.behind = self.mask is None or bool((self.mask[:, :-1] >= self.mask[:, 1:]).all())
        self.rows = 0
        self.prompts: Tensor | None = None
        self._visible: dict[int | None, Tensor] = {}

    @property
    def lengths(self) -> Tensor:
        return torch.full((self.rows,), self.size, device=self.keys.device)

    def begin(self, rows: int, length: int, mask: Tensor | None) -> Tensor:
        """The tokens' positions [B,T], which count on from the prefix."""
        self.rows = rows
        if self.mask is None:
            return (self.size + torch.arange(length, device=self.keys.device)).expand(rows, -1)
        return self.size + order(self.mask)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """Shapes as in Store."""
        k = torch.cat([self.keys[layer].to(k.dtype).expand(len(k), -1, -1, -1), k], dim=2)
        v = torch.cat([self.values[layer].to(v.dtype).expand(len(v), -1, -1, -1), v], dim=2)
        if rule.causal and self.behind and rule.window is None and rule.bias is None:
            # The prefix asks too, so that the kernel skips what is hidden and needs no mask; its answers are dropped.
            whole = torch.cat([q.new_zeros(*q.shape[:2], self.size, q.shape[3]), q], dim=2)
            return attend(whole, k, v, rule, causal=True)[:, :, self.size :]
        if rule.window not in self._visible:
            self._visible[rule.window] = self._see(q, rule)
        return attend(q, k, v, rule, visible=self._visible[rule.window])

    def _see(self, q: Tensor, rule: AttentionRule) -> Tensor:
        length, device = q.shape[2], q.device
        mask = self.mask
        if mask is None:
            mask = torch.ones(1, length, dtype=torch.bool, device=device)
        place = self.size + order(mask)
        places = torch.cat([torch.arange(self.size, device=device).expand(len(mask), -1), place], dim=1)
        real = torch.cat([mask.new_ones(len(mask), self.size), mask], dim=1)
        visible = real[:, None, :] & see(place, places, rule.window, rule.causal)
        # A padding token sees itself: a row without anything to see would be 0/0.
        visible[:, :, self.size :] |= torch.eye(length, dtype=torch.bool, device=device)
        return visible[:, None] if rule.bias is None else biased(visible, place, places, rule.bias, q.dtype)

    def commit(self) -> None:
        """Nothing is kept."""

    def truncate(self, row: int, length: int) -> None:
        raise RuntimeError("this cache serves one pass")

    def fork(self, row: int, copies: int) -> list[int]:
        raise RuntimeError("this cache serves one pass")

    def keep(self, rows: list[int]) -> None:
        raise RuntimeError("this cache serves one pass")
