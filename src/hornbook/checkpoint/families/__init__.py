"""The families that Hornbook knows, by what a file calls its architecture. To add one: write its file, name it here."""

from hornbook.checkpoint.families import llama
from hornbook.checkpoint.family import Family

# config.json's model_type; GGUF's general.architecture
HUGGING_FACE: dict[str, Family] = {family.name: family for family in (llama.HUGGING_FACE,)}
GGUF: dict[str, Family] = {family.name: family for family in (llama.GGUF,)}
