"""``hornbook bench`` as a job: a few measures of one model, each told as soon as it is there.

The model is loaded in a process of its own, so that what the server does beside is not in the figures, and stopping the
job ends that process at once.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from hornbook.errors import HornbookError, UsageError
from hornbook.serve.jobs import Job

MEASURES = ("first_token", "prefill_512", "decode_1", "decode_4", "decode_16")  # a minute or less on two processors


def check(measures: list[str]) -> None:
    """Raises UsageError for a measure that is not one."""
    from hornbook.cli.benching.rows import ALL

    known = [measure.key for measure in ALL]
    if unknown := sorted(set(measures) - set(known)):
        raise UsageError(f"there is no measure {', '.join(unknown)}", f"The measures: {', '.join(known)}.")


def measure(job: Job, path: Path, measures: list[str], rounds: int, threads: int) -> None:
    """Run the measures in their own order and add a row for each. Raises Cancelled, WorkerFailed."""
    import sys

    from hornbook.cli.benching.rows import ALL, run
    from hornbook.cli.benching.workers import Worker

    wanted = [each for each in ALL if each.key in measures]
    job.tell("loading", 0, 0)
    size = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    command = [sys.executable, "-m", "hornbook.cli.benching.ours"]
    with closing(Worker(command, path, threads or os.cpu_count() or 1)) as worker:
        job.on_cancel = worker.close
        for done, each in enumerate(wanted):
            job.tell(each.key, done, len(wanted))
            row = run(each, [worker], rounds, size)
            job.check()
            if why := row.failed.get(worker.name):
                raise HornbookError(f"{each.title}: {why}", "Stop other work on this machine and measure again.")
            asked = row.measure.asked
            job.found(
                {
                    "measure": each.key,
                    "title": each.title,
                    "unit": each.unit,
                    "value": row.median(worker.name),
                    "batch": asked.get("batch"),
                    "tokens": asked.get("tokens"),
                }
            )
    job.tell("", len(wanted), len(wanted))
