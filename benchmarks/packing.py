"""What packing saves on real conversations, and how fast they are encoded: dolly_hhrlhf_small under SmolLM2's template.

    python benchmarks/packing.py [--context 512] [--tokens 2048] [--write]

padding   the share of what goes through the model that is padding: rows at random, rows of like length, packed rows
openings  the share of the tokens that is not computed again because rows of a micro-batch begin alike
--write puts the table into docs/results/packing.md. It takes some seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.store import Store
from hornbook.data import encode, feed, order
from hornbook.data.read import Source, read
from hornbook.data.table import Table
from hornbook.settings import Settings
from hornbook.text.chat import ChatTemplate
from hornbook.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HORNBOOK_DATA", ROOT.parent / "shared" / "data"))
PAGE = ROOT / "docs" / "results" / "packing.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()

    with GGUF.open(Store(Settings.load()).ensure("smollm2:135m").path) as file:
        metadata = dict(file.metadata)
    tokenizer = Tokenizer.from_gguf(metadata)
    template = ChatTemplate.from_gguf(metadata, tokenizer)
    assert template is not None
    examples = list(read([Source(str(DATA / "instructions" / "dolly_hhrlhf_small.jsonl.gz"))]))
    encoder = encode.chat(template, asked.context)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        table = Table.write(
            Path(folder) / "t",
            encoder.many(examples),
            fingerprint="",
            account=encoder.account,
            vocab_size=tokenizer.vocab_size,
        )
        encoding = table.account.tokens / (time.process_time() - began)
        page = _page(table, asked.context, asked.tokens, encoding)
    print(page)
    if asked.write:
        PAGE.write_text(page, "utf-8")


def _page(table: Table, context: int, tokens: int, encoding: float) -> str:
    lengths, account = table.lengths, table.account

    def padding(batches: order.Epoch) -> float:
        return 1 - float(lengths.sum()) / sum(int(lengths[rows].max()) * len(rows) for rows in batches)

    began = time.process_time()
    shared = list(feed.packed(table, tokens=tokens, seed=0).once())
    collating = account.tokens / (time.process_time() - began)
    computed = sum(batch.ids.numel() for batch in shared)
    rows = max(1, tokens // context)
    table_rows = [
        (f"{rows} rows at random, padded to the longest", f"{padding(order.fixed(len(table), rows, 0, 0)):.1%}", "-"),
        ("rows of like length, padded", f"{padding(order.padded(lengths, tokens, 0, 0)):.1%}", "-"),
        ("packed", "0.0%", f"{account.tokens / (len(shared) * tokens):.1%}"),
    ]
    lines = [
        "# What packing saves", "",
        f"`python benchmarks/packing.py --context {context} --tokens {tokens} --write`: {account.examples} conversations of "
        f"dolly_hhrlhf_small under the chat template of SmolLM2-135M-Instruct, cut at {context} tokens; "
        f"{account.tokens:,} tokens, {account.learnt:,} of them learnt, {account.truncated} conversations cut, "
        f"{account.unlabelled} without anything left to learn.", "",
        "| a micro-batch | padding | filled |", "|---|---|---|",
        *(f"| {what} | {share} | {filled} |" for what, share, filled in table_rows), "",
        f"*Filled*: of the {tokens:,} tokens that a micro-batch may have. What rows of a micro-batch begin with alike is computed "
        f"once: of {account.tokens:,} tokens {computed:,} go through the model, {1 - computed / account.tokens:.1%} fewer, with "
        "the same loss and gradient.", "",
        f"On one core conversations are rendered, encoded, masked and written at {encoding:,.0f} tokens a second, and read and "
        f"packed into batches at {collating:,.0f}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
