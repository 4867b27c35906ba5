"""The families that Hornbook knows, by what a file calls its architecture. To add one: write its file, name it here."""

from hornbook.checkpoint.families import (  # fmt: skip
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
from hornbook.checkpoint.family import Family

# fmt: off
# config.json's model_type
HUGGING_FACE: dict[str, Family] = {
    family.name: family
    for family in (
        transformer.HUGGING_FACE, t5.HUGGING_FACE, t5.MT5,
        bert.HUGGING_FACE, roberta.ROBERTA, roberta.XLM_ROBERTA, roberta.CAMEMBERT, albert.HUGGING_FACE,
        gpt.HUGGING_FACE, gpt2.HUGGING_FACE, gpt3.HUGGING_FACE, gptj.HUGGING_FACE, gpt_neox.HUGGING_FACE,
        llama.HUGGING_FACE, mistral.HUGGING_FACE, mixtral.HUGGING_FACE, falcon.HUGGING_FACE,
        phi.HUGGING_FACE, phi3.HUGGING_FACE, gemma.GEMMA, gemma.GEMMA_2, gemma.GEMMA_3,
        qwen.QWEN_2, qwen.QWEN_2_MOE, qwen.QWEN_3, qwen.QWEN_3_MOE,
    )
} | dict.fromkeys(falcon.OLD_NAMES, falcon.HUGGING_FACE)

# GGUF's general.architecture
GGUF: dict[str, Family] = {
    family.name: family
    for family in (
        t5.GGUF, bert.GGUF, gpt2.GGUF, gpt_neox.GGUF, llama.GGUF, falcon.GGUF, phi.GGUF, phi3.GGUF,
        gemma.GGUF_1, gemma.GGUF_2, gemma.GGUF_3, qwen.GGUF_2, qwen.GGUF_2_MOE, qwen.GGUF_3, qwen.GGUF_3_MOE,
    )
}
