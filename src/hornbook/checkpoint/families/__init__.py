"""The families that Hornbook knows, by what a file calls its architecture. To add one: write its file, name it here."""

from hornbook.checkpoint.families import albert, bert, gpt, gpt2, gpt3, llama
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
        gpt.HUGGING_FACE,
        gpt2.HUGGING_FACE,
        gpt3.HUGGING_FACE,
        llama.HUGGING_FACE,
    )
}
GGUF: dict[str, Family] = {family.name: family for family in (bert.GGUF, gpt2.GGUF, llama.GGUF)}
