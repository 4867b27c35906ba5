"""The families that Hornbook knows, by what a file calls its architecture. To add one: write its file, name it here."""

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import (
    albert,
    bert,
    falcon,
    gemma,
    gpt,
    gpt2,
    gpt3,
    gpt_neox,
    gptj,
    llama,
    mistral,
    mixtral,
    phi,
    phi3,
    qwen,
    roberta,
    t5,
    transformer,
)
from hornbook.checkpoint.family import AGAIN, Family
from hornbook.errors import ModelFileError

# config.json's model_type; GGUF's general.architecture
HUGGING_FACE: dict[str, Family] = {
    family.name: family
    for family in (
        albert.HUGGING_FACE,
        bert.HUGGING_FACE,
        falcon.HUGGING_FACE,
        gemma.GEMMA,
        gemma.GEMMA_2,
        gemma.GEMMA_3,
        gpt.HUGGING_FACE,
        gpt2.HUGGING_FACE,
        gpt3.HUGGING_FACE,
        gpt_neox.HUGGING_FACE,
        gptj.HUGGING_FACE,
        llama.HUGGING_FACE,
        mistral.HUGGING_FACE,
        mixtral.HUGGING_FACE,
        phi3.HUGGING_FACE,
        qwen.QWEN_2,
        qwen.QWEN_2_MOE,
        qwen.QWEN_3,
        qwen.QWEN_3_MOE,
        phi.HUGGING_FACE,
        roberta.ROBERTA,
        roberta.XLM_ROBERTA,
        roberta.CAMEMBERT,
        t5.HUGGING_FACE,
        t5.MT5,
        transformer.HUGGING_FACE,
    )
} | dict.fromkeys(falcon.OLD_NAMES, falcon.HUGGING_FACE)
GGUF: dict[str, Family] = {
    family.name: family
    for family in (
        bert.GGUF,
        falcon.GGUF,
        gemma.GGUF_1,
        gemma.GGUF_2,
        gemma.GGUF_3,
        gpt2.GGUF,
        gpt_neox.GGUF,
        llama.GGUF,
        phi.GGUF,
        phi3.GGUF,
        qwen.GGUF_2,
        qwen.GGUF_2_MOE,
        qwen.GGUF_3,
        qwen.GGUF_3_MOE,
        t5.GGUF,
    )
}

# Models that read images too: where config.json describes the part that reads and writes text, and what that part is.
TEXT_PARTS = {"gemma3": ("text_config", "gemma3_text")}
OUTSIDE = ("quantization_config", "tie_word_embeddings", "dtype", "torch_dtype")


def text_part(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json of the part that reads and writes text, which is the whole of most models.

    Raises ModelFileError where the file does not describe it.
    """
    key, name = TEXT_PARTS.get(str(raw.get("model_type")), (None, ""))
    if key is None:
        return raw
    inner = raw.get(key)
    if not isinstance(inner, Mapping):
        raise ModelFileError(f"config.json has no {key}", AGAIN)
    kept = {k: value for k, value in raw.items() if k.endswith("_token_id") or k in OUTSIDE}
    return {"model_type": name, **kept, **inner}
