"""What a step may take of the memory, told before anything is allocated.

budget >= pages x page_bytes + scratch of a step (tokens, rows of logits)

A step takes a page's tokens more than its number where answers alone fill it: prompts go on however many there are.
"""

from __future__ import annotations

from hornbook.engine.executor import PAGE, Executor
from hornbook.errors import UsageError


def step_within(executor: Executor, memory: int | None, tokens: int, rows: int) -> int:
    """The most tokens that a step may take: halved until its scratch fits in ``memory`` beside the pages.

    Raises UsageError with the numbers where not even the smallest step fits.
    """
    pages = executor.pages * executor.page_bytes
    while (
        memory is not None
        and (need := pages + executor.scratch_bytes(tokens + PAGE, min(rows, tokens + PAGE))) > memory
    ):
        if tokens <= PAGE:
            raise UsageError(
                f"keys and values with the smallest step need {need / 1e6:,.1f} MB, the budget is {memory / 1e6:,.1f} MB",
                "Give it more, or make it with fewer pages.",
            )
        tokens = max(PAGE, tokens // 2)
    return tokens
