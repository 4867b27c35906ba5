"""What a tokenizer's class stands for, where its folder holds raw vocabulary files and no tokenizer.json.

The class is the one that tokenizer_config.json or config.json names, else the one that config.json's model_type goes
with, else the one that the files themselves suggest. Each class is a row of independent facts; what a folder's own
configuration says (do_lower_case, add_bos_token, its special tokens, ...) goes before the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from hornbook.errors import UnsupportedModel

Kind = Literal["wordpiece", "byte-level", "word-end", "sentencepiece", "marian"]
Role = Literal["bos", "eos", "unk", "sep", "pad", "cls", "mask"]
ROLES: tuple[Role, ...] = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
GGUF_ROLES: dict[str, str] = {  # in tokenizer.ggml.{...}_token_id; the misspelling is the format's
    **{"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"},
    **{"sep": "seperator", "cls": "cls", "mask": "mask"},
}


class Layout(NamedTuple):
    """How the tokenizers of one class read their files and what they put around a text.

    special: the token of each role. first, last: the roles put before and after a text; between: the roles between two
    texts. cut: the byte-level pre-tokenizer, a name of `hornbook.text.pretokenize`. composes: NFC first. lowers, bares:
    lower case and no accents first, unless the folder says otherwise. quotes: `` and '' become ". commas_apart: no piece
    may end in a digit and a comma (the ids of years and of thousands would differ by what follows). extra_ids: sentinels
    after the vocabulary, the last one <extra_id_0>. mask_eats_space: the mask token takes the space before it.
    """

    kind: Kind
    special: Mapping[Role, str]
    first: Role | None = None
    last: Role | None = None
    between: tuple[Role, ...] = ()
    cut: str = "gpt-2"
    composes: bool = False
    lowers: bool = False
    bares: bool = False
    quotes: bool = False
    commas_apart: bool = False
    extra_ids: int = 0
    mask_eats_space: bool = False


_END: dict[Role, str] = {"unk": "<|endoftext|>", "bos": "<|endoftext|>", "eos": "<|endoftext|>"}
_BERT: dict[Role, str] = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ALBERT: dict[Role, str] = {**_BERT, "unk": "<unk>", "pad": "<pad>", "bos": "[CLS]", "eos": "[SEP]"}
_ROBERTA: dict[Role, str] = {
    **{"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>"},
    **{"unk": "<unk>", "pad": "<pad>", "mask": "<mask>"},
}
_LLAMA: dict[Role, str] = {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}
_GEMMA: dict[Role, str] = {"unk": "<unk>", "bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "mask": "<mask>"}
_T5: dict[Role, str] = {"unk": "<unk>", "eos": "</s>", "pad": "<pad>"}

LAYOUTS: dict[str, Layout] = {
    "BertTokenizer": Layout("wordpiece", _BERT, "cls", "sep", ("sep",), lowers=True),
    "GPT2Tokenizer": Layout("byte-level", _END),
    "CodeGenTokenizer": Layout("byte-level", _END),
    "RobertaTokenizer": Layout("byte-level", _ROBERTA, "cls", "sep", ("sep", "sep"), mask_eats_space=True),
    "Qwen2Tokenizer": Layout(
        "byte-level", {"eos": "<|endoftext|>", "pad": "<|endoftext|>"}, cut="qwen2", composes=True
    ),
    "OpenAIGPTTokenizer": Layout("word-end", {"unk": "<unk>"}, lowers=True),
    "LlamaTokenizer": Layout("sentencepiece", _LLAMA, "bos"),
    "GemmaTokenizer": Layout("sentencepiece", _GEMMA, "bos"),
    "T5Tokenizer": Layout("sentencepiece", _T5, None, "eos", ("eos",), extra_ids=100),
    "AlbertTokenizer": Layout(
        "sentencepiece", _ALBERT, "cls", "sep", ("sep",), lowers=True, bares=True, quotes=True, commas_apart=True
    ),
    "MarianTokenizer": Layout("marian", _T5, None, "eos"),
}

_ALIASES = {"LLaMATokenizer": "LlamaTokenizer", "DistilBertTokenizer": "BertTokenizer", "MT5Tokenizer": "T5Tokenizer"}
_GENERIC = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", "SentencePieceBackend")  # these say nothing

_CLASS_OF_MODEL_TYPE: dict[str, str] = {
    **dict.fromkeys(["bert", "distilbert"], "BertTokenizer"),
    **dict.fromkeys(["gpt2", "gptj", "gpt_neo"], "GPT2Tokenizer"),
    **dict.fromkeys(["phi", "codegen"], "CodeGenTokenizer"),
    "roberta": "RobertaTokenizer",
    **dict.fromkeys(["qwen2", "qwen2_moe", "qwen3", "qwen3_moe"], "Qwen2Tokenizer"),
    "openai-gpt": "OpenAIGPTTokenizer",
    **dict.fromkeys(["llama", "mistral", "mixtral", "phi3"], "LlamaTokenizer"),
    **dict.fromkeys(["gemma", "gemma2", "gemma3", "gemma3_text"], "GemmaTokenizer"),
    **dict.fromkeys(["t5", "mt5"], "T5Tokenizer"),
    "albert": "AlbertTokenizer",
    "marian": "MarianTokenizer",
}

FILES: dict[tuple[str, ...], tuple[Kind, str]] = {
    ("source.spm", "target.spm", "vocab.json"): ("marian", "MarianTokenizer"),
    ("vocab.json", "merges.txt"): ("byte-level", "GPT2Tokenizer"),
    ("encoder.json", "vocab.bpe"): ("byte-level", "GPT2Tokenizer"),
    ("tokenizer.model",): ("sentencepiece", ""),
    ("spiece.model",): ("sentencepiece", ""),
    ("vocab.txt",): ("wordpiece", "BertTokenizer"),
}
"""The raw files of a tokenizer: what kind they are, and the class meant where nothing names one."""

_PLAIN_SENTENCEPIECE = Layout("sentencepiece", {})


def layout_for(
    tokenizer_config: Mapping[str, object], config: Mapping[str, object], kind: Kind, otherwise: str
) -> Layout:
    """The row for a folder whose files are of this kind; ``otherwise`` is the class that the files suggest.

    A class that config.json only implies by its model_type gives way to the files: an ALBERT may come with a BERT
    vocabulary. Raises UnsupportedModel where a class is named that is not known, or that reads other files.
    """
    for source in (tokenizer_config, config):
        named = str(source.get("tokenizer_class") or "").removesuffix("Fast")
        if named and named not in _GENERIC:
            layout = LAYOUTS.get(_ALIASES.get(named, named))
            if layout is None:
                raise UnsupportedModel(
                    f"the tokenizer class {named} is not one that Hornbook reads from its vocabulary files",
                    f"Known are {', '.join(LAYOUTS)}; with a tokenizer.json in the folder any class is read.",
                )
            if not _reads(layout.kind, kind):
                raise UnsupportedModel(
                    f"the folder names {named}, which reads {layout.kind} files, but holds {kind} ones",
                    "Give the folder of a whole model, with the tokenizer files that it was published with.",
                )
            return layout
    implied = LAYOUTS.get(_CLASS_OF_MODEL_TYPE.get(str(config.get("model_type")), ""))
    if implied is not None and _reads(implied.kind, kind):
        return implied
    return LAYOUTS.get(otherwise, _PLAIN_SENTENCEPIECE)


def _reads(wanted: Kind, found: Kind) -> bool:
    return wanted == found or (wanted, found) == ("word-end", "byte-level")  # both are vocab.json and merges.txt
