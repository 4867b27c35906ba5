"""The chat template of a training: the model's own, ChatML, or one from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hornbook.errors import TemplateError, UsageError

if TYPE_CHECKING:
    from hornbook.checkpoint.loading import Checkpoint
    from hornbook.text.chat import ChatTemplate
    from hornbook.text.tokenizer import Tokenizer

CHATML = (  # as OpenAI wrote it down; models of many makers were tuned with it
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TURNS = ("<|im_start|>", "<|im_end|>")


def template_of(said: str | None, checkpoint: Checkpoint) -> ChatTemplate:
    """What ``said`` names, for the checkpoint's tokenizer. Raises TemplateError where the model has none and none is said,
    or its turns would be text and no tokens; UsageError where a file cannot be read."""
    if said is not None:
        return named(said, checkpoint.tokenizer)
    if checkpoint.chat_template is None:
        raise TemplateError(
            f"{checkpoint.path.name} has no chat template", "Say template: chatml, or a file; or take a chat model."
        )
    return checkpoint.chat_template


def named(said: str, tokenizer: Tokenizer) -> ChatTemplate:
    """A template by its name or its file."""
    from hornbook.text.chat import ChatTemplate

    if said == "chatml":
        return ChatTemplate(CHATML, tokenizer)
    try:
        return ChatTemplate(Path(said).read_text("utf-8"), tokenizer)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"the template {said} cannot be read: {why}", "Say chatml, or name a jinja file.") from error
