"""What the server counts, in the form that Prometheus reads: times as they happen, the engines' books when asked.

hornbook_requests_total{path, status}                 hornbook_time_to_first_token_seconds{model}   histogram
hornbook_requests_open                                hornbook_inter_token_seconds{model}           histogram
hornbook_queue_requests{model}, _running_answers      hornbook_prompt_tokens_total{model}, _new_tokens_total
hornbook_cache_hit_tokens_total{model}                hornbook_cache_pages{model, state}
hornbook_model_bytes{model}                           hornbook_resident_bytes
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

if TYPE_CHECKING:
    from hornbook.engine.stats import Stats

FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
NEXT = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts by upper bound. For one thread: what every token of every stream passes must not take locks."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        total, found = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


@dataclass(slots=True)
class Times:
    """Of one model: seconds to the first token of a request, and from token to token of an answer."""

    firsts: Histogram = field(default_factory=lambda: Histogram(FIRST))
    nexts: Histogram = field(default_factory=lambda: Histogram(NEXT))

    def first(self, seconds: float) -> None:
        self.firsts.add(seconds)

    def next(self, seconds: float) -> None:
        self.nexts.add(seconds)


@dataclass(frozen=True, slots=True)
class Books:
    """How a loaded model stands when somebody asks. ``stats`` None: it has no engine (an embedder)."""

    name: str
    bytes: int
    stats: Stats | None


class Metrics:
    """Everything that one server counts. ``books``: of the models that are loaded now."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hornbook_requests", "HTTP requests answered.", ("path", "status"), registry=self.registry
        )
        self.open = Gauge("hornbook_requests_open", "HTTP requests being answered.", registry=self.registry)
        self.books: Callable[[], Iterable[Books]] = tuple
        self._times: dict[str, Times] = {}
        self.registry.register(self)

    def times(self, model: str) -> Times:
        """The histograms of a model, which stay when it is unloaded and loaded again."""
        return self._times.setdefault(model, Times())

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def describe(self) -> tuple[Metric, ...]:
        """For the registry, which would collect once to learn our names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        first = HistogramMetricFamily(
            "hornbook_time_to_first_token_seconds", "From a request's arrival to its first token.", labels=("model",)
        )
        following = HistogramMetricFamily(
            "hornbook_inter_token_seconds", "From one token of an answer to its next.", labels=("model",)
        )
        for name, times in self._times.items():
            first.add_metric((name,), times.firsts.cumulative(), times.firsts.sum)
            following.add_metric((name,), times.nexts.cumulative(), times.nexts.sum)
        yield first
        yield following
        yield from _of_engines(list(self.books()))
        if (resident := resident_bytes()) is not None:
            yield GaugeMetricFamily("hornbook_resident_bytes", "Memory that the server's process holds.", resident)


def _of_engines(books: Sequence[Books]) -> Iterator[Metric]:
    held = GaugeMetricFamily("hornbook_model_bytes", "Memory set aside for a loaded model.", labels=("model",))
    for book in books:
        held.add_metric((book.name,), book.bytes)
    yield held
    gauges = {
        "hornbook_queue_requests": ("Answers that wait for their turn.", "waiting"),
        "hornbook_running_answers": ("Answers that are being written.", "running"),
    }
    counters = {
        "hornbook_prompt_tokens": ("Tokens of prompts that were admitted.", "prompt_tokens"),
        "hornbook_cache_hit_tokens": ("Of those, tokens that were known and not computed again.", "hit_tokens"),
        "hornbook_new_tokens": ("Tokens written.", "new_tokens"),
        "hornbook_steps": ("Passes of the model.", "steps"),
        "hornbook_preemptions": ("Answers that were put back for want of cache.", "preemptions"),
        "hornbook_drafted_tokens": ("Guesses that the model judged.", "drafted_tokens"),
        "hornbook_kept_tokens": ("Guesses that were right.", "kept_tokens"),
    }
    for names, family in ((gauges, GaugeMetricFamily), (counters, CounterMetricFamily)):
        for name, (about, attribute) in names.items():
            metric = family(name, about, labels=("model",))
            for book in books:
                if book.stats is not None:
                    metric.add_metric((book.name,), getattr(book.stats, attribute))
            yield metric
    pages = GaugeMetricFamily("hornbook_cache_pages", "Pages of keys and values.", labels=("model", "state"))
    for book in books:
        if book.stats is not None:
            for state in ("free", "cached", "used"):
                pages.add_metric((book.name, state), getattr(book.stats, f"pages_{state}"))
    yield pages


def resident_bytes() -> int | None:
    """Main memory that this process holds; None where the system does not tell in a file."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    import resource

    return pages * resource.getpagesize()
