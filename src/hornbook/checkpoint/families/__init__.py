"""The families that Hornbook knows, by what a file calls its architecture. To add one: write its file, name it here."""

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
    t5,
    transformer,
)
from hornbook.checkpoint.family import Family

# config.json's model_type; GGUF's general.architecture
HUGGING_FACE: dict[str, Family] = {
    family.name: family
    for family in (
        albert.HUGGING_FACE,
        bert.HUGGING_FACE,
        bert.ROBERTA,
        bert.XLM_ROBERTA,
        bert.CAMEMBERT,
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
