"""The families that Hornbook knows, by what a file calls its architecture. To add one: write its file, name it here."""

from hornbook.checkpoint.families import bert, gemma, llama
from hornbook.checkpoint.rules import Family

# config.json's model_type; GGUF's general.architecture
HUGGING_FACE: dict[str, Family] = {
    "bert": bert.HUGGING_FACE,
    "gemma3_text": gemma.HUGGING_FACE,
    "llama": llama.HUGGING_FACE,
}
GGUF: dict[str, Family] = {
    "bert": bert.GGUF,
    "gemma3": gemma.GGUF,
    "llama": llama.GGUF,
}
