"""YAML as people mean it, for the files of settings that they write: 1e-4 is a number, "no" and "on" are words, and a key
stands once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, (list, dict)) or name in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {name!r} stands twice or is no key")
            seen.add(name)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: references (*name) are not taken")
        return super().compose_node(parent, index)


_NUMBER = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false|True|False)$"), list("tfTF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def loaded(text: str) -> Any:
    """What a text says. Raises ValueError, which says why it is no YAML and in which line."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        raise ValueError(f"line {mark.line + 1}: {what}" if mark is not None else what) from error


def nearest(word: str, names: Iterable[str]) -> str:
    """What to say of a word that is none of ``names``."""
    known = list(names)
    near = get_close_matches(word, known, n=2, cutoff=0.5)
    listed = ", ".join(known)
    return f"Did you mean {' or '.join(near)}? There are {listed}." if near else f"There are {listed}."
