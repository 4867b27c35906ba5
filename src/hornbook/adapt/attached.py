"""An adapter on a model: switched, merged, saved and taken off again, whatever its kind.

    attached = LoRA(rank=16).attach(model)         the model's own weights are frozen, and never copied
    train(attached.parameters())                   with attached.disabled(): the model as it was
    attached.save(folder)                          attached.merge(), .unmerge(), .detach()

Three things make up an adapter, and each kind uses what it needs of them:

    parts      modules that stand around those of the model (inject.py)
    replaced   parameters of the model that are trained themselves: norms, embeddings, a classifier's head
    hooks      calls of the model as a whole, which look at ``attached.active``
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hornbook.adapt import inject
from hornbook.adapt.bases import fingerprint
from hornbook.adapt.inject import Part
from hornbook.adapt.nf4 import NF4Linear
from hornbook.checkpoint.fingerprint import Fingerprint
from hornbook.errors import UsageError
from hornbook.model.transformer import Transformer


class Adapter(Protocol):
    """The settings of an adapter: a frozen dataclass. A kind is one file that has such a class."""

    kind: ClassVar[str]  # what recipes call it
    peft_type: ClassVar[str]  # what adapter_config.json calls it

    def attach(
        self, model: Transformer, *, name: str = "default", generator: torch.Generator | None = None
    ) -> Attached:
        """Put it on a model. ``generator``: what its first weights are drawn from, torch's own where None."""
        ...

    def described(self, attached: Attached) -> dict[str, Any]:
        """What adapter_config.json says of it beside what all kinds say."""
        ...

    def tensors(self, attached: Attached) -> dict[str, Tensor]:
        """Its own weights by the names of PEFT's file; replaced parameters are not among them."""
        ...

    @classmethod
    def read(cls, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Transformer) -> Adapter:
        """The settings that a file says, for ``model``. Raises UnsupportedModel, UsageError, ModelFileError."""
        ...

    def fill(self, attached: Attached, tensors: Mapping[str, Tensor]) -> None:
        """Give ``attached`` the weights of a file. Raises ModelFileError or UsageError where they do not fit."""
        ...


@dataclass(slots=True)
class Replaced:
    """A parameter of the model that is trained: ``own`` waits while ``trained`` stands in its place."""

    module: nn.Module
    attribute: str
    own: nn.Parameter
    trained: nn.Parameter

    def put(self, trained: bool) -> None:
        setattr(self.module, self.attribute, self.trained if trained else self.own)


class Attached:
    """``name``, ``adapter`` and ``model`` are what was put together; ``base``: the fingerprint of the model without it."""

    def __init__(
        self,
        model: Transformer,
        adapter: Adapter,
        *,
        name: str = "default",
        parts: Mapping[str, Part],
        replaced: Sequence[str] = (),
        hooks: Sequence[RemovableHandle] = (),
    ) -> None:
        """Put it on, and freeze the model.

        parts     by the path of the module that each stands around; by a name of its own where there is no such module
                  (it is called by a hook): such names begin with "+"
        replaced  names of the model's own parameters that are trained, as copies
        Raises UsageError where the name is taken, or another adapter trains one of ``replaced`` already.
        """
        if name in model.attached or not name.isidentifier():
            why = "is on the model already" if name in model.attached else "is no name: letters, digits and _ only"
            raise UsageError(f"an adapter called {name!r} {why}", "Choose another name, or detach the other first.")
        others: list[Attached] = list(model.attached.values())
        self.name, self.adapter, self.model = name, adapter, model
        self.base: Fingerprint = others[0].base if others else fingerprint(model)
        self.parts = dict(parts)
        self.replaced: dict[str, Replaced] = {}
        self._hooks = tuple(hooks)
        self._active = True
        self._merged: dict[tuple[str, str], Tensor] = {}  # (path, parameter): its values from before
        self._learning = {key: parameter.requires_grad for key, parameter in inject.parameters(model)}
        for other in others:  # what they train stays as it is
            self._learning |= dict.fromkeys(other.replaced, False)
        trained = {id(each.trained) for other in others for each in other.replaced.values()}
        for _, parameter in inject.parameters(model):
            if id(parameter) not in trained:
                parameter.requires_grad_(False)
        self.replace(dict.fromkeys(replaced))
        for path, part in self.parts.items():
            if not path.startswith("+"):
                inject.insert(model, path, name, part)
        model.attached[name] = self

    def replace(self, values: Mapping[str, Tensor | None]) -> None:
        """Have parameters of the model trained too, as copies that begin with these values, or the model's where None.

        Raises UsageError where another adapter trains one already.
        """
        taken = {key: other.name for other in self.model.attached.values() for key in other.replaced}
        own = dict(inject.parameters(self.model))
        for key in values:
            if key in taken:
                raise UsageError(f"{key} is trained by the adapter {taken[key]!r} already", "Detach that one first.")
        for key, value in values.items():
            path, _, attribute = key.rpartition(".")
            copy = nn.Parameter((own[key] if value is None else value).detach().to(own[key]).clone())
            self.replaced[key] = Replaced(inject.module(self.model, path), attribute, own[key], copy)
            self.replaced[key].put(True)

    # --- what is trained

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained: "blocks.0.attention.query.down", "norm.weight"."""
        for path, part in self.parts.items():
            for name, parameter in part.named_parameters():
                if parameter.requires_grad:
                    yield f"{path}.{name}", parameter
        for key, one in self.replaced.items():
            yield key, one.trained

    def parameters(self) -> Iterator[nn.Parameter]:
        for _, parameter in self.named_parameters():
            yield parameter

    # --- switching

    @property
    def active(self) -> bool:
        """Whether the model computes with it. Several may be active at once: their changes add up."""
        return self._active

    @active.setter
    def active(self, on: bool) -> None:
        if on == self._active:
            return
        if self._merged:
            raise UsageError(f"the adapter {self.name!r} is merged into the weights", "Call unmerge() first.")
        self._active = on
        for part in self.parts.values():
            part.active = on
        for one in self.replaced.values():
            one.put(on)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The model without it."""
        before, self.active = self.active, False
        try:
            yield
        finally:
            self.active = before

    # --- merging

    @property
    def merged(self) -> bool:
        return bool(self._merged)

    @property
    def mergeable(self) -> bool:
        """Whether it is a change of the model's weights, and they can be changed."""
        folds = all(type(part).folded is not Part.folded for part in self.parts.values())
        return folds and not self._hooks and not self._in_four_bits()

    def _in_four_bits(self) -> bool:
        paths = [path for path in self.parts if not path.startswith("+")]
        return any(isinstance(inject.module(self.model, path), NF4Linear) for path in paths)

    @torch.no_grad()
    def merge(self, *, forever: bool = False) -> None:
        """Fold it into the model's weights: nothing more is computed beside them.

        The weights from before are kept, so that ``unmerge`` and ``detach`` restore them bit for bit, at the cost of
        their memory. ``forever``: they are not kept, and the model is a plain one of which the adapter is no part any more.
        Raises UsageError where this kind cannot be merged, it is switched off, or another adapter is active as well.
        """
        self.check_mergeable()
        for path, part in self.parts.items():
            base = inject.module(self.model, path)
            for name, value in part.folded(base).items():
                own = base.get_parameter(name)
                if not forever:
                    self._merged[path, name] = own.data
                own.data = value.to(own.dtype)
            part.active = False
        if forever:
            for one in self.replaced.values():
                one.own = one.trained
            self._merged = {}
            self._leave()

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take it out of the weights again, which are then those from before, bit for bit."""
        if not self._merged:
            raise UsageError(f"the adapter {self.name!r} is not merged", "Call merge() first.")
        for (path, name), own in self._merged.items():
            inject.module(self.model, path).get_parameter(name).data = own
        self._merged = {}
        for part in self.parts.values():
            part.active = True

    def check_mergeable(self) -> None:
        """Raises UsageError as ``merge`` does."""
        others = [other.name for other in self.model.attached.values() if other is not self and other.active]
        if others or not self._active or self._merged:
            why = "is merged already" if self._merged else "is switched off"
            raise UsageError(
                f"the adapter {self.name!r} {f'is not alone: {others} are active too' if others else why}",
                "Only the one adapter that is active can be merged.",
            )
        if self._in_four_bits():
            raise UsageError(
                "the model's weights are in NF4, where a merged adapter would be rounded away",
                "Load the model without NF4, load the adapter onto it, and merge there.",
            )
        if not self.mergeable:
            raise UsageError(
                f"an adapter of the kind {self.adapter.kind} cannot be merged: it is no change of the weights",
                "Keep it attached, or train a LoRA.",
            )

    def detach(self) -> None:
        """Take it off: the model is then what it was before, bit for bit."""
        if self._merged:
            self.unmerge()
        for one in self.replaced.values():
            one.put(False)
        self._leave()

    def _leave(self) -> None:
        for path in self.parts:
            if not path.startswith("+"):
                inject.take_out(self.model, path, self.name)
        for hook in self._hooks:
            hook.remove()
        del self.model.attached[self.name]
        own = dict(inject.parameters(self.model))
        for key, learning in self._learning.items():
            if not self.model.attached and key in own:
                own[key].requires_grad_(learning)

    # --- keeping

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights by the names of PEFT's file. Raises UnsupportedModel for a model that has no Hugging Face form."""
        from hornbook.adapt.format import tensors

        return tensors(self)

    def save(self, folder: str | Path, *, base: str | None = None) -> None:
        """Write adapter_config.json and adapter_model.safetensors as PEFT does. ``base``: what the model is called there.

        Raises UnsupportedModel as ``state_dict`` does, StoreError where the folder cannot be written.
        """
        from hornbook.adapt.format import save

        save(self, Path(folder), base=base)
