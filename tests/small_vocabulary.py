"""A byte-level tokenizer of 600 tokens, made of real text in a moment, and a chat template that marks what is generated."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

from hornbook.text.chat import ChatTemplate
from hornbook.text.tokenizer import Tokenizer
from hornbook.train.vocabulary import byte_pairs

CHAT = """\
{% for m in messages %}[{{ m.role }}]
{% if m.role == "assistant" %}{% generation %}{{ m.content }}</s>{% endgeneration %}
{% else %}{{ m.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]
{% endif %}"""


@cache
def shakespeare(shared: Path) -> str:
    return gzip.decompress((shared / "lm_text" / "tinyshakespeare.txt.gz").read_bytes()).decode()[:60_000]


@cache
def small_tokenizer(shared: Path) -> Tokenizer:
    """It puts </s> behind a text."""
    return byte_pairs([shakespeare(shared)], 600)


@cache
def small_template(shared: Path) -> ChatTemplate:
    return ChatTemplate(CHAT, small_tokenizer(shared))
