"""Load a tokenizer from a model's folder. The first of these that is there is read:

    tokenizer.json                                  whatever the tokenizers library wrote
    vocab.json + merges.txt, encoder.json + vocab.bpe     GPT-2's byte-level BPE, as Hugging Face and as OpenAI named it
    tokenizer.model                                 SentencePiece
    vocab.txt                                       WordPiece

The special tokens are those of tokenizer_config.json and special_tokens_map.json; the ids that end a reply also those of
generation_config.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.text.detokenize import Style
from hornbook.text.gguf_vocabulary import from_metadata
from hornbook.text.parts import Parts, stop_ids
from hornbook.text.sentencepiece import read_sentencepiece

_FIX = "Pull the model again, or restore the file."
Json = dict[str, Any]


def from_folder(path: Path) -> Parts:
    """Raise ModelFileError where there is no tokenizer or it is damaged, UnsupportedModel on one that is not known."""
    config = {**read_json(path / "special_tokens_map.json"), **read_json(path / "tokenizer_config.json")}
    for names, read in _READERS.items():
        files = [path / name for name in names]
        if files[0].is_file():
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise ModelFileError(f"{path} holds {names[0]}, but no {', '.join(missing)}", _FIX)
            try:
                parts = read(config, *files)
            except (ModelFileError, UnsupportedModel):
                raise
            except Exception as error:  # the tokenizers library raises bare Exceptions
                raise ModelFileError(f"{files[0]} is not a sound tokenizer: {_short(error)}", _FIX) from error
            return _configured(parts, config, read_json(path / "generation_config.json"))
    raise ModelFileError(
        f"{path} holds no tokenizer (looked for {', '.join(names[0] for names in _READERS)})",
        "Give the folder of a whole model.",
    )


def read_json(path: Path) -> Json:
    """A JSON object from a file, {} where there is none. Raise ModelFileError on anything else."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {_short(error)}", _FIX) from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} is not a JSON object", _FIX)
    return value


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# ------------------------------------------------------------------------------------------------------ the files


def _tokenizer_json(config: Json, file: Path) -> Parts:
    backend = Backend.from_file(str(file))
    backend.no_truncation()  # what is too long is the caller's to judge: nothing is cut in silence
    backend.no_padding()
    decoder = None if backend.decoder is None else json.loads(backend.decoder.__getstate__())
    style, strips, tidies = read_decoder(decoder)
    return Parts(backend, style, strips_first_space=strips, tidies=tidies)


def _byte_level(config: Json, vocabulary: Path, merges: Path) -> Parts:
    ids = read_json(vocabulary)
    lines = merges.read_text("utf-8").split("\n")
    rows = lines[1:] if lines[0].startswith("#version") else lines
    pairs = [(left, right) for left, _, right in (row.partition(" ") for row in rows if row)]
    if not pairs or not all(left and right for left, right in pairs):
        raise ModelFileError(f"{merges} does not hold two tokens a line", _FIX)
    backend = Backend(models.BPE(ids, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(bool(config.get("add_prefix_space", False)))
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    if end in ids:
        backend.add_special_tokens([AddedToken(end, normalized=False)])
    return Parts(backend, "byte-level", bos_id=ids.get(end), eos_id=ids.get(end))


def _sentencepiece(config: Json, file: Path) -> Parts:
    flags = {f"tokenizer.ggml.{name}": config[name] for name in ("add_bos_token", "add_eos_token") if name in config}
    return from_metadata({**read_sentencepiece(file), **flags})


def _wordpiece(config: Json, file: Path) -> Parts:
    tokens = file.read_text("utf-8").split("\n")
    ids = {token.rstrip("\r"): id for id, token in enumerate(tokens) if token}
    marks = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if token in ids]
    if not {"[UNK]", "[CLS]", "[SEP]"} <= set(marks):
        raise ModelFileError(f"{file} lacks one of [UNK], [CLS], [SEP]", _FIX)
    backend = Backend(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    around = [(mark, ids[mark]) for mark in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS]:0 $A:0 [SEP]:0", special_tokens=around)
    return Parts(
        backend,
        "wordpiece",
        bos_id=ids["[CLS]"],
        eos_id=ids["[SEP]"],
        pad_id=ids.get("[PAD]"),
        unk_id=ids["[UNK]"],
        tidies=True,
    )


_READERS: dict[tuple[str, ...], Callable[..., Parts]] = {
    ("tokenizer.json",): _tokenizer_json,
    ("vocab.json", "merges.txt"): _byte_level,
    ("encoder.json", "vocab.bpe"): _byte_level,
    ("tokenizer.model",): _sentencepiece,
    ("vocab.txt",): _wordpiece,
}


def read_decoder(decoder: Json | None) -> tuple[Style, bool, bool]:
    """What a tokenizer.json's decoder does: (style, drops the first space, tidies the spaces of English)."""
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = [step["type"] for step in steps]
    if not kinds:
        return "plain", False, False
    if "ByteLevel" in kinds:
        return "byte-level", False, False
    if kinds == ["WordPiece"]:
        return "wordpiece", False, bool(steps[0].get("cleanup", True))
    if kinds == ["Metaspace"]:
        return "sentencepiece", steps[0].get("prepend_scheme", "always") != "never", False
    if set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return "sentencepiece", "Strip" in kinds or "Metaspace" in kinds, False
    raise UnsupportedModel(
        f"the tokenizer's decoder ({', '.join(kinds)}) is not one that Hornbook knows",
        "Known are ByteLevel, WordPiece, Metaspace and SentencePiece's sequence of Replace, ByteFallback, Fuse, Strip.",
    )


# ----------------------------------------------------------------------------------------- what the folder declares


def _configured(parts: Parts, config: Json, generation: Json) -> Parts:
    """Add the tokens that the configuration declares, and take its word on which ones are special."""
    backend = parts.backend
    known = backend.get_added_tokens_decoder()
    declared = {int(id): entry for id, entry in config.get("added_tokens_decoder", {}).items()}
    backend.add_tokens([_added(declared[id]) for id in sorted(declared) if id not in known])

    def special(name: str, otherwise: int | None) -> int | None:
        value = config.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        id = backend.token_to_id(text) if isinstance(text, str) else None
        return otherwise if id is None else id

    bos = special("bos", special("cls", parts.bos_id))
    eos = special("eos", special("sep", parts.eos_id))
    for flag, id, form in (("add_bos_token", bos, "{0}:0 $A:0"), ("add_eos_token", eos, "$A:0 {0}:0")):
        if config.get(flag) is True and id is not None and id not in backend.encode("").ids:
            text = str(backend.id_to_token(id))
            step = processors.TemplateProcessing(single=form.format(text), special_tokens=[(text, id)])
            backend.post_processor = (
                step if backend.post_processor is None else processors.Sequence([backend.post_processor, step])
            )
    added = backend.get_added_tokens_decoder()
    ends = generation.get("eos_token_id") or []
    ends = ends if isinstance(ends, list) else [ends]
    return replace(
        parts,
        bos_id=bos,
        eos_id=eos,
        pad_id=special("pad", parts.pad_id),
        unk_id=special("unk", parts.unk_id),
        stop_ids=parts.stop_ids
        | stop_ids([eos, *ends], {token.content: id for id, token in added.items() if token.special}),
        literal=frozenset(added),
    )


def _added(entry: Json) -> AddedToken:
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(**{name: entry[name] for name in names if name in entry})
