"""The tokenizer: text to ids and back, whatever format the model came in.

    tokenizer = Tokenizer.from_gguf(file.metadata)      # or Tokenizer.from_folder(path)
    ids = tokenizer.encode("Hello")                     # with BOS and EOS where the model wants them
    text = tokenizer.decode(ids)
    tokenizer.save(folder, template)                    # a Hugging Face folder
    metadata = tokenizer.gguf_metadata(template)        # a GGUF file's keys

Special tokens. A *control* token (<|im_end|>, <s>) steers the model; a *user-defined* token is only a frequent piece
of text that has an id of its own. ``parse_special=False``, the default, treats control tokens that stand in the text as
the characters they are, because text is data: a person who types "<|im_end|>" does not end a turn. ``parse_special``
is for text that a template wrote. User-defined tokens are always matched. ``add_special`` adds what the model expects
around a text (BOS, EOS, [CLS], [SEP]).

A Tokenizer never changes after it is made and may be used by many threads at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Encoding, Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from hornbook.errors import UsageError
from hornbook.text import folder, gguf_metadata, gguf_vocabulary, save
from hornbook.text.detokenize import Detokenizer
from hornbook.text.parts import Parts

if TYPE_CHECKING:
    from hornbook.text.chat import ChatTemplate


class Tokenizer:
    """Text to ids and back. Build one with `from_gguf` or `from_folder`.

    bos_id, eos_id, pad_id, unk_id: int | None. stop_ids: the ids that end a reply (EOS, end of turn, end of message).
    add_bos: whether ``encode`` puts a BOS in front. control_ids: ids of control tokens, which ``decode`` skips.
    """

    def __init__(self, parts: Parts) -> None:
        self.bos_id = parts.bos_id
        self.eos_id = parts.eos_id
        self.pad_id = parts.marks.get("pad")
        self.unk_id = parts.marks.get("unk")
        self.stop_ids = parts.stop_ids
        self.vocab_size: int = parts.backend.get_vocab_size(with_added_tokens=True)
        self.backend = parts.backend  # matches control tokens
        self._plain = without_control(parts.backend)  # shares the model: takes them as text
        added = parts.backend.get_added_tokens_decoder()
        self.control_ids = frozenset(id for id, token in added.items() if token.special)
        self.add_bos = self.bos_id is not None and self._plain.encode("").ids[:1] == [self.bos_id]
        self.parts = parts
        self._ids_of_names = {name: id for id, name in parts.names.items()}
        self.detokenizer = Detokenizer(
            parts.style,
            self.token,
            strips_first_space=parts.strips_first_space,
            tidies=parts.tidies,
            literal=parts.literal,
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Rebuild the tokenizer of a GGUF file from its metadata; see `hornbook.text.gguf_vocabulary`."""
        return cls(gguf_vocabulary.from_metadata(metadata))

    @classmethod
    def from_folder(cls, path: str | Path, *, target: bool = False) -> Tokenizer:
        """Load the tokenizer that lies in a model's folder; see `hornbook.text.folder`.

        ``target``: of a translator with a vocabulary model for each side (Marian), the side that it translates into,
        which encodes the texts that it learns to write. Both sides decode alike.
        """
        return cls(folder.from_folder(Path(path), target=target))

    def save(
        self, folder: str | Path, template: str | ChatTemplate | None = None, *, context_length: int | None = None
    ) -> list[Path]:
        """Write the tokenizer, and a chat template with it, as a Hugging Face folder; see `hornbook.text.save`.

        context_length: the longest text in tokens that the model takes. Returns the paths of the files. Raises
        ModelFileError where the folder cannot be written.
        """
        return save.save(self.parts, Path(folder), _by_name(template), context_length=context_length)

    def gguf_metadata(
        self, template: str | ChatTemplate | None = None, *, architecture: str = "", rows: int | None = None
    ) -> dict[str, Any]:
        """The ``tokenizer.*`` keys of a GGUF file; see `hornbook.text.gguf_metadata`.

        architecture: ``general.architecture``. rows: of the model's embedding; unused tokens fill the vocabulary up to
        them. Raises UnsupportedModel on what GGUF cannot say, UsageError on fewer rows than tokens.
        """
        return gguf_metadata.gguf_metadata(self.parts, _by_name(template), architecture=architecture, rows=rows)

    # ------------------------------------------------------------------------------------------------ text to ids

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The ids of a text."""
        return self.encoding(text, add_special=add_special, parse_special=parse_special).ids

    def encode_batch(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = False
    ) -> list[list[int]]:
        """The ids of many texts, none padded; uses all cores where TOKENIZERS_PARALLELISM allows it."""
        backend = self.backend if parse_special else self._plain
        found = backend.encode_batch_fast([_sound(text) for text in texts], add_special_tokens=add_special)
        return [encoding.ids for encoding in found]

    def encoding(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> Encoding:
        """The ids with their character offsets in ``text`` (``.ids``, ``.offsets``)."""
        backend = self.backend if parse_special else self._plain
        return backend.encode(_sound(text), add_special_tokens=add_special)

    def count(self, text: str, *, add_special: bool = False) -> int:
        """How many tokens a text has, by default without BOS and EOS."""
        return len(self.encode(text, add_special=add_special))

    # ------------------------------------------------------------------------------------------------ ids to text

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ids. Bytes that are no UTF-8 become U+FFFD. Raise UsageError on an id outside the vocabulary."""
        kept = [id for id in map(int, ids) if not (skip_special and id in self.control_ids)]
        return self.detokenizer.pieces(kept).decode("utf-8", "replace")

    def token(self, id: int) -> str:
        """The token as the vocabulary writes it ("Ġthe", "▁the", "##ing")."""
        token = self.parts.names.get(id) or (self.backend.id_to_token(id) if 0 <= id < 1 << 31 else None)
        if token is None:
            raise UsageError(
                f"{id} is not a token id: the vocabulary has {self.vocab_size} tokens",
                "Ids come from this model's own tokenizer; look whether another model's were given.",
            )
        return token

    def id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it, None where there is none."""
        return self._ids_of_names.get(token, self.backend.token_to_id(token))

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """The texts of all control tokens, longest first."""
        return tuple(sorted(map(self.token, self.control_ids), key=len, reverse=True))


def _by_name(template: str | ChatTemplate | None) -> dict[str, str]:
    if template is None:
        return {}
    return {"default": template} if isinstance(template, str) else {"default": template.source, **template.named}


def _sound(text: str) -> str:
    """Lone surrogates, which no UTF-8 can hold, become U+FFFD, as they would in a file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def without_control(backend: Backend) -> Backend:
    """A second tokenizer around the same model that does not look for control tokens. It costs no second vocabulary."""
    twin = Backend(backend.model)
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        part = getattr(backend, name)
        if part is not None:
            setattr(twin, name, part)
    added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
    twin.add_tokens([added[id] for id in sorted(added)])
    twin.encode_special_tokens = True
    if isinstance(backend.model, models.Unigram):
        # Unigram has its control tokens among its pieces and would find them in text: cut them after their first letter.
        texts = [token.content for token in added.values() if token.special and len(token.content) > 1]
        inside = "|".join(f"(?<={re.escape(text[0])})(?={re.escape(text[1:])})" for text in texts)
        split = [pre_tokenizers.Split(Regex(inside), "isolated")] if texts else []
        twin.pre_tokenizer = pre_tokenizers.Sequence([part for part in (backend.pre_tokenizer, *split) if part])
    return twin
