"""Small tasks whose every prompt is known, and a model that remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hornbook.engine.scripted import ScriptedLLM
from hornbook.errors import UsageError
from hornbook.evals.metric import Metric
from hornbook.evals.prompting import framed
from hornbook.evals.task import Answer, Grade, Item, Likelihood, Means, Request, Rolling, Setting, Task, Trial, Writing
from hornbook.types import SamplingParams, Score


class Sums(Task):
    """ "1 + 2 =" with three answers to choose from; its solved examples are sums, too."""

    name, metrics, version = "sums", (Metric("acc"),), "1"

    def __init__(self, count: int = 12, groups: Sequence[str] = ("",), name: str = "sums", chat: bool = False) -> None:
        self.name, self.chat = name, chat
        self._items = [Item(f"s{n}", {"a": n, "b": n + 1}, groups[n % len(groups)]) for n in range(count)]

    def items(self) -> Sequence[Item]:
        return self._items

    def examples(self) -> Sequence[Item]:
        return [Item(f"e{n}", {"a": 100 + n, "b": 7}) for n in range(20)]

    def question(self, item: Item) -> str:
        return f"{item.data['a']} + {item.data['b']} ="

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        context = framed(self, item, setting, self.question, self.target)
        right = int(self.target(item))
        return (Likelihood(context, (f" {right}", f" {right + 1}", f" {right - 1}")),)

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        scores = [score.logprob for score in answers[0] if isinstance(score, Score)]
        return {"acc": float(scores[0] == max(scores))}

    def target(self, item: Item) -> str:
        return str(item.data["a"] + item.data["b"])


class Words(Task):
    """Write the word again; graded by what comes first."""

    metrics = (Metric("exact"),)

    def __init__(
        self, count: int = 10, name: str = "words", chat: bool = False, sampling: SamplingParams | None = None
    ) -> None:
        self.name, self.chat = name, chat
        self.sampling = sampling or SamplingParams(max_tokens=8, stop=("\n",))
        self.graded: list[str] = []
        self._items = [Item(f"w{n}", {"word": f"word{n}"}) for n in range(count)]

    def items(self) -> Sequence[Item]:
        return self._items

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        return (
            Writing(framed(self, item, setting, lambda one: f"Say {one.data['word']}:", self.target), self.sampling),
        )

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        self.graded.append(item.id)
        return {"exact": float(any(str(text).strip() == self.target(item) for text in answers[0]))}

    def target(self, item: Item) -> str:
        return str(item.data["word"])


class JudgedWords(Words):
    """Somebody else grades, who has to be named."""

    def equip(self, means: Means) -> None:
        if means.judge is None:
            raise UsageError("words needs a judge", "Name one.")
        self.graded_by = means.judge


class Texts(Task):
    """How likely whole texts are."""

    name, metrics = "texts", (Metric("nats", higher_is_better=False, percent=False),)

    def items(self) -> Sequence[Item]:
        return [Item(f"t{n}", {"text": "once upon a time " * n}) for n in range(1, 4)]

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        return (Rolling(item.data["text"]),)

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        (score,) = answers[0]
        assert isinstance(score, Score)
        return {"nats": -score.logprob}


class Tries(Trial):
    """A task that works with the model itself."""

    name, metrics = "tries", (Metric("good"),)

    def __init__(self) -> None:
        self.tried: list[str] = []

    def items(self) -> Sequence[Item]:
        return [Item(f"r{n}", {"n": n}) for n in range(3)]

    def answer(self, item: Item, model: Any, setting: Setting) -> Mapping[str, Any]:
        self.tried.append(item.id)
        return {"said": model.generate(f"try {item.id}")[0].text}

    def judge(self, item: Item, answer: Mapping[str, Any]) -> Grade:
        return {"good": float(answer["said"] == item.id)}


class Remembering(ScriptedLLM):
    """Scores and texts by simple rules; ``scored``, ``written`` and ``waves`` tell what it was asked, in its order."""

    def __init__(self, reply: Callable[[str], str] | None = None, **options: Any) -> None:
        super().__init__(reply or (lambda prompt: prompt.split()[-1].rstrip(":")), **options)
        self.scored: list[tuple[Any, str]] = []
        self.written: list[Any] = []
        self.waves: list[int] = []

    def score(self, pairs: Sequence[tuple[Any, str]]) -> list[Score]:
        self.waves.append(len(pairs))
        self.scored += pairs
        return [self._one_score(context, continuation) for context, continuation in pairs]

    def _one_score(self, context: Any, continuation: str) -> Score:
        """The right sum is the likeliest, but after an even number."""
        words = context.split("\n")[-1].split() if isinstance(context, str) else ["1", "+", "2", "="]
        right = int(words[-4]) + int(words[-2])
        off = abs(int(continuation) - right)
        return Score(-float(off if right % 4 == 1 else 1 - off) - 0.1, False, 1)

    def score_text(self, texts: Sequence[str]) -> list[Score]:
        self.waves.append(len(texts))
        return [Score(-float(len(text)) / 3, False, len(text.split())) for text in texts]

    def generate(self, prompts: Any, sampling: SamplingParams | None = None) -> Any:
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        self.waves.append(len(several))
        self.written += several
        return super().generate(prompts, sampling)
