"""What a model says in the middle of its training, greedily, by the plain generator: adapters that are attached speak too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hornbook.model.transformer import Transformer
    from hornbook.text.tokenizer import Tokenizer


def replies(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], tokens: int) -> list[str]:
    """An answer of at most ``tokens`` tokens to each prompt of ids; of those that leave no room, nothing."""
    from hornbook.adapt.front import size_of
    from hornbook.engine.generate import Generator
    from hornbook.model.cache import ContiguousCache
    from hornbook.text.stream import StreamDecoder
    from hornbook.types import SamplingParams

    config, said, ahead = model.config, [""] * len(prompts), size_of(model)
    generator = Generator(
        model,
        new_cache=lambda rows, capacity: ContiguousCache(config, rows, ahead + capacity, model.dtype, model.device),
        new_decoder=lambda: StreamDecoder(tokenizer),
        context_length=config.context_length - ahead,
        vocab_size=tokenizer.vocab_size,
        stop_ids=tokenizer.stop_ids,
        device=model.device,
        rows=4,
    )
    able = [at for at, ids in enumerate(prompts) if 0 < len(ids) < generator.context_length]
    learning = model.training
    model.eval()
    try:
        params = SamplingParams(max_tokens=tokens, logprobs=False)
        for step in generator.run([prompts[at] for at in able], [params] * len(able)):
            if step.error is not None:
                raise step.error
            if step.token is not None:
                said[able[step.row]] += step.token.text
    finally:
        model.train(learning)
    return said
