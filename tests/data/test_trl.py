"""What TRL's SFTTrainer would learn is what is learnt here: ids, labels and loss, on real conversations and completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hornbook.checkpoint import load
from hornbook.data import encode, feed
from hornbook.data.encode import Encoder
from hornbook.data.example import Conversation, Example, Pair
from hornbook.data.table import Table
from hornbook.text.chat import ChatTemplate
from hornbook.text.tokenizer import Tokenizer
from hornbook.train.batch import IGNORED
from hornbook.train.losses import causal_lm
from hornbook.types import Message
from jsonl import read_jsonl

CONTEXT = 200
MARKED = """\
{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}
{% else %}{{ m.content }}<|im_end|>
{% endif %}{% endfor %}"""


@pytest.fixture(scope="module")
def turns(shared: Path) -> list[list[dict[str, str]]]:
    """Real ones of one exchange, and three in a row that end with a question; of several languages."""
    pairs = [
        (row["prompt"], row["response"]) for row in read_jsonl(shared / "instructions" / "dolly_hhrlhf_small.jsonl.gz")
    ]
    short = [pair for pair in pairs if len(pair[0]) + len(pair[1]) < 600][:10] + pairs[3:5]
    made = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in short]
    made.append([*made[0], *made[1], {"role": "user", "content": "吾輩は猫である。"}])
    made.append([{"role": "system", "content": "Réponds."}, *made[2], {"role": "user", "content": "再"}, *made[3][1:]])
    return made


def trained_by_trl(folder: Path, out: Path, rows: list[dict[str, Any]], **config: Any) -> tuple[list[Any], float]:
    """(the rows that it learns from: ids and labels; the loss of all of them in one batch)."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template, tokenizer.pad_token = MARKED, tokenizer.eos_token
    arguments = SFTConfig(
        output_dir=str(out), max_length=CONTEXT, per_device_train_batch_size=99, report_to=[], use_cpu=True, bf16=False,
        disable_tqdm=True, **config,
    )  # fmt: skip
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(folder), arguments, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    found = [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model.eval(), trainer.data_collator(list(trainer.train_dataset)))
    return found, float(loss)


def learnt_here(folder: Path, out: Path, encoder: Encoder, examples: list[Example]) -> tuple[list[Any], list[float]]:
    """(rows as above; the loss of all of them padded, and packed)."""
    checkpoint = load(folder, dtype="float32")
    table = Table.write(out / "t", encoder.many(examples), fingerprint="x", account=encoder.account, vocab_size=384)
    found = []
    for at in range(len(table)):
        row = table[at]
        labels = [id if yes else IGNORED for id, yes in zip(row.ids.tolist(), row.learnt, strict=True)]
        found.append((row.ids.tolist(), labels))
    objective, values = causal_lm(), []
    for whole in (
        feed.padded(table, tokens=1 << 16, padding=0, seed=0), feed.packed(table, tokens=1 << 16, seed=0),
        feed.packed(table, tokens=2 * CONTEXT, seed=0),
    ):  # fmt: skip
        batches = list(whole.once())
        over = {name: sum(objective.count(batch)[name] for batch in batches) for name in objective.count(batches[0])}
        with torch.no_grad():
            values.append(sum(float(objective(checkpoint.model.eval(), batch, over=over)[0]) for batch in batches))
    return found, values


def test_conversations_are_learnt_as_trl_learns_them(
    tiny_llm_path: Path, tmp_path: Path, turns: list[list[dict[str, str]]]
) -> None:
    """With assistant_only_loss and a template that marks what is generated; cut at the context, and packed too."""
    theirs, loss = trained_by_trl(
        tiny_llm_path, tmp_path, [{"messages": each} for each in turns], assistant_only_loss=True
    )
    encoder = encode.chat(ChatTemplate(MARKED, Tokenizer.from_folder(tiny_llm_path)), CONTEXT)
    examples: list[Example] = [Conversation(tuple(map(Message.of, each))) for each in turns]
    ours, losses = learnt_here(tiny_llm_path, tmp_path, encoder, examples)
    assert ours == theirs
    assert losses == pytest.approx([loss] * 3, rel=1e-5)
    assert encoder.account.truncated and len(ours) + encoder.account.unlabelled == len(turns)


def test_completions_are_learnt_as_trl_learns_them(
    tiny_llm_path: Path, tmp_path: Path, turns: list[list[dict[str, str]]]
) -> None:
    """Text behind text without a template; the prompt is not learnt."""
    pairs = [(f"### {each[0]['content']}\n\n", each[1]["content"]) for each in turns[:10]]
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    theirs, loss = trained_by_trl(tiny_llm_path, tmp_path, rows)
    encoder = encode.completion(Tokenizer.from_folder(tiny_llm_path), CONTEXT)
    ours, losses = learnt_here(tiny_llm_path, tmp_path, encoder, [Pair(*pair) for pair in pairs])
    assert ours == theirs
    assert losses == pytest.approx([loss] * 3, rel=1e-5)
