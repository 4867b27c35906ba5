"""The families that Hornbook knows, by what a file calls its architecture. To add one: write its file, name it here."""

from hornbook.checkpoint.families import albert, bert, gemma, gpt, gpt2, gpt3, llama, t5, transformer
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
        gemma.GEMMA,
        gemma.GEMMA_2,
        gemma.GEMMA_3,
        gpt.HUGGING_FACE,
        gpt2.HUGGING_FACE,
        gpt3.HUGGING_FACE,
        llama.HUGGING_FACE,
        t5.HUGGING_FACE,
        t5.MT5,
        transformer.HUGGING_FACE,
    )
}
GGUF: dict[str, Family] = {
    family.name: family
    for family in (bert.GGUF, gemma.GGUF_1, gemma.GGUF_2, gemma.GGUF_3, gpt2.GGUF, llama.GGUF, t5.GGUF)
}
