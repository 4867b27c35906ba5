"""Tasks of lm-evaluation-harness on rows of our own: their prompts, and what they give a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class HarnessTask:
    """A task that the harness defines in a YAML file, below its folder of tasks."""

    def __init__(self, path: str, rows: Sequence[dict[str, Any]]) -> None:
        import datasets
        import lm_eval
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.tasks._yaml_loader import load_yaml

        config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / path)
        splits = {config.get(key) for key in ("test_split", "validation_split", "training_split", "fewshot_split")}
        table = datasets.Dataset.from_list([*rows])
        config["custom_dataset"] = lambda **_: datasets.DatasetDict({split: table for split in splits if split})
        self.task = ConfigurableTask(config=config)
        self.docs = [*table]
        self.stop = self.task.config.generation_kwargs["until"]

    def prompt(self, row: int) -> str:
        return str(self.task.fewshot_context(self.docs[row], num_fewshot=0))

    def fixed_prompt(self, row: int, shots: int) -> str:
        """With the examples that the harness always shows first."""
        return str(self.task.fewshot_context(self.docs[row], num_fewshot=shots))

    def grades(self, row: int, text: str) -> dict[str, float]:
        """By name of a filter, whether the text is right."""
        from lm_eval.api.instance import Instance

        asked = Instance(request_type="generate_until", doc=self.docs[row], arguments=("", {}), idx=0)
        asked.resps = [text]
        found = {}
        for ensemble in self.task._filters:
            ensemble.apply([asked])
            result = self.task.process_results(self.docs[row], [asked.filtered_resps[ensemble.name]])
            found[ensemble.name] = float(result["exact_match"])
        return found
