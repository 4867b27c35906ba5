"""Items that hang together count as clusters: errors and tests of two models hold what they promise, and without clusters nothing
is other than before."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hornbook.engine.scripted import ScriptedLLM
from hornbook.errors import DataError
from hornbook.evals import compare as comparing
from hornbook.evals import own, report
from hornbook.evals.bootstrap import Spread, spread, whole
from hornbook.evals.clusters import Clusters, named
from hornbook.evals.compare import Difference, differences, mcnemar, worse
from hornbook.evals.data import Data
from hornbook.evals.metric import Metric, ratio
from hornbook.evals.outcome import Outcome, Result
from hornbook.evals.registry import tasks
from hornbook.evals.run import run
from hornbook.evals.statistics import Estimate, _error, _error_of_clusters, by_group, estimate, wilson
from hornbook.types import Score

ACC = Metric("acc")
SECONDS = Metric("acc", percent=False)
RATE = Metric("rate", total=ratio("hits", "words"))


def of(values: object, clusters: Sequence[str] | None = None, metric: Metric = ACC, **more: Any) -> Estimate:
    return estimate(metric, {"acc": np.asarray(values, dtype=float)}, clusters=clusters, **more)


def questions(sizes: np.ndarray[Any, Any]) -> list[str]:
    """A name for each item of so many passages with so many questions each."""
    return [f"passage {number}" for number, size in enumerate(sizes) for _ in range(size)]


def samples(
    seed: int, trials: int, passages: int, truth: float, alike: float, most: int = 12
) -> Iterator[tuple[np.ndarray[Any, Any], list[str]]]:
    """Right and wrong answers to 1 to ``most`` questions about each passage. ``alike``: how much two of one passage correlate."""
    random = np.random.default_rng(seed)
    much = (1 - alike) / alike
    for _ in range(trials):
        sizes = random.integers(1, most + 1, passages)
        easy = random.beta(truth * much, (1 - truth) * much, passages)
        yield (random.random(sizes.sum()) < np.repeat(easy, sizes)).astype(float), questions(sizes)


def covered(truth: float, found: Sequence[Estimate]) -> float:
    return float(np.mean([one.low <= truth <= one.high for one in found]))  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize(("passages", "truth", "alike"), [(43, 0.5, 0.3), (100, 0.85, 0.3), (20, 0.5, 0.1)])
def test_an_interval_of_clusters_covers_95_times_in_100_and_one_of_their_items_does_not(
    passages: int, truth: float, alike: float
) -> None:
    drawn = list(samples(passages, 1200, passages, truth, alike))
    assert 0.93 <= covered(truth, [of(right, names) for right, names in drawn]) <= 0.97
    alone = covered(truth, [of(right) for right, _ in drawn])
    assert alone < (0.8 if alike == 0.3 else 0.9)


def test_shares_and_other_numbers_of_clusters_cover_too() -> None:
    random = np.random.default_rng(5)
    shares, seconds = [], []
    for right, names in samples(5, 800, 50, 0.6, 0.3):
        shares.append(of(right * random.beta(3, 1, len(right)), names))
        seconds.append(of(right * 20 + random.normal(0, 1, len(right)), names, SECONDS))
    assert 0.93 <= covered(0.45, shares) <= 0.97
    assert 0.93 <= covered(12, seconds) <= 0.97


def test_clusters_within_groups_cover_and_the_groups_narrow_them() -> None:
    """Four subjects of unlike difficulty, each with fifteen passages of five questions."""
    random = np.random.default_rng(8)
    truths = np.repeat([0.2, 0.5, 0.7, 0.9], 15)
    names = questions(np.full(60, 5))
    groups = np.repeat([f"subject {number}" for number in range(4)], 75).tolist()
    both, plain, items = [], [], []
    for _ in range(800):
        easy = np.repeat(random.beta(truths * 4, (1 - truths) * 4), 5)
        right = random.random(300) < easy
        both.append(of(right, names, groups=groups))
        plain.append(of(right, names))
        items.append(of(right, groups=groups))
    assert 0.93 <= covered(0.575, both) <= 0.97 and covered(0.575, items) < 0.9
    assert np.mean([one.stderr for one in both]) < 0.85 * np.mean([one.stderr for one in plain])


# --------------------------------------------------------------------------------------------------------- values


def test_the_error_is_the_one_computed_by_hand() -> None:
    """Mean 2/3; the residuals of the three clusters sum to 0, -1/3 and 1/3: sqrt(3/2 * 2/9) / 6."""
    found = of([1, 1, 0, 0, 1, 1], ["a", "a", "a", "b", "b", ""])
    assert found.stderr == pytest.approx(math.sqrt(1 / 3) / 6)
    assert found.low < 2 / 3 < found.high  # type: ignore[operator]
    apart = of([4, 6, 5, 9], ["a", "a", "b", "b"], SECONDS)  # residual sums -2 and 2 of mean 6: sqrt(2 * 8) / 4
    assert (apart.stderr, apart.high) == pytest.approx((1.0, 6 + stats.t.ppf(0.975, 1)))


def test_the_error_in_groups_is_the_one_computed_by_hand() -> None:
    """Means 1/2 and 3/4, sums of the clusters 1/2+1/2, -1/2-1/2; 1/4+1/4, -3/4+1/4: sqrt(4 / (4 - 2) * 2.5) / 8."""
    right, names = [1, 1, 0, 0, 1, 1, 0, 1], list("aabbccdd")
    assert of(right, names, groups=list("xxxxyyyy")).stderr == pytest.approx(math.sqrt(2 * 2.5) / 8)


def test_items_and_groups_that_stand_alone_give_the_plain_formula() -> None:
    values = np.random.default_rng(1).random(40)
    single = Clusters(np.arange(40), 40)
    for groups in (None, np.array(["a", "b"] * 20)):
        assert _error_of_clusters(values, groups, single) == pytest.approx(_error(values, groups))


@pytest.mark.parametrize("names", [[""] * 40, [f"p{number}" for number in range(40)]])
def test_without_two_items_in_any_cluster_every_number_is_the_same_as_before(names: list[str]) -> None:
    random = np.random.default_rng(2)
    columns = {"acc": random.random(40), "hits": random.random(40), "words": random.random(40) + 1}
    right = {"acc": (random.random(40) < 0.5).astype(float)}
    groups = ["a", "b"] * 20
    for metric, given in ((ACC, columns), (RATE, columns), (ACC, right)):
        for parts in (None, groups):
            assert estimate(metric, given, groups=parts, clusters=names) == estimate(metric, given, groups=parts)
        assert by_group(metric, given, groups, clusters=names) == by_group(metric, given, groups)
    after = {"acc": 1 - right["acc"] * (random.random(40) < 0.3)}
    apart = pair(right["acc"], after["acc"], names)
    assert apart == pair(right["acc"], after["acc"], ())
    assert (apart.p, apart.worse_p) == mcnemar(len(apart.better), len(apart.worse))
    assert Clusters.of(None) is None and Clusters.of([]) is None


def test_the_bootstrap_of_a_total_draws_whole_clusters() -> None:
    """A ratio knows its items by the sums of their clusters alone: the bootstrap of those, by another program, is the same."""
    random = np.random.default_rng(3)
    sizes = random.integers(1, 9, 60)
    words = random.poisson(30, sizes.sum()) + 1.0
    hits = random.binomial(words.astype(int), np.repeat(random.beta(2, 5, 60), sizes)).astype(float)
    names = questions(sizes)
    sums = [np.array([column[np.array(names) == name].sum() for name in dict.fromkeys(names)]) for column in (hits, words)]  # fmt: skip
    known = stats.bootstrap(
        sums, lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, n_resamples=10_000, rng=1, method="BCa"
    )
    found = estimate(RATE, {"hits": hits, "words": words}, clusters=names)
    width = known.confidence_interval.high - known.confidence_interval.low
    assert found.stderr == pytest.approx(known.standard_error, rel=0.06)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval), abs=0.1 * width)
    assert found == estimate(RATE, {"hits": hits, "words": words}, clusters=names), "the same from run to run"
    assert found.stderr > 1.5 * estimate(RATE, {"hits": hits, "words": words}).stderr  # type: ignore[operator]


def test_a_resample_has_whole_clusters_and_as_many_of_each_group() -> None:
    names, groups = list("aabcccdd") + [""], list("xxxyyyyyy")
    clusters = Clusters.of(names)
    assert clusters is not None and clusters.count == 5
    columns = {"place": np.arange(9.0), "twice": np.arange(9.0) * 2}
    several = list(whole(columns, groups, clusters, 200, 0))
    assert len({len(one["place"]) for one in several}) > 3, "as many items as the clusters have"
    members = [[0, 1], [2], [3, 4, 5], [6, 7], [8]]
    for one in several:
        counts = np.bincount(one["place"].astype(int), minlength=9)
        assert all(len(set(counts[places])) == 1 for places in members)
        assert sum(counts[places[0]] for places in members[:2]) == 2, "two clusters of x"
        assert sum(counts[places[0]] for places in members[2:]) == 3, "and three of y"
        assert np.array_equal(one["twice"], 2 * one["place"])


# -------------------------------------------------------------------------------------------------------- the odd


def test_of_a_single_cluster_no_error_is_known() -> None:
    one = of([1, 0, 1, 1], ["a"] * 4)
    assert (one.value, one.stderr, one.items) == (0.75, None, 4)
    assert (one.low, one.high) == pytest.approx(wilson(0.75, 1))
    assert of([0.5, 0.1], ["a", "a"]) == Estimate(0.3, None, None, None, 2)
    total = estimate(RATE, {"hits": np.ones(3), "words": np.full(3, 4.0)}, clusters=["a"] * 3)
    assert total == Estimate(0.25, None, None, None, 3)


def test_what_never_varies_is_as_certain_as_its_clusters_are_many() -> None:
    names = questions(np.full(20, 10))
    found = of(np.ones(200), names)
    assert found.stderr == 0 and found.low == pytest.approx(wilson(1, 20, float(stats.t.ppf(0.975, 19)))[0], abs=1e-9)
    assert found.low < of(np.ones(200)).low  # type: ignore[operator]


def test_no_more_clusters_than_groups_are_taken_for_one_group() -> None:
    right, names = [1, 0, 1, 1], list("aabb")
    assert of(right, names, groups=list("aabb")) == of(right, names)


def test_a_grade_that_is_absent_leaves_its_cluster() -> None:
    right = [1, math.nan, 0, 1, 1]
    assert of(right, list("aabbc")) == of([1, 0, 1, 1], list("abbc"))
    assert of(right, list("aabcd")) == of([1, 0, 1, 1]), "what is left stands alone"


def test_each_group_is_estimated_with_its_own_clusters() -> None:
    right, names = np.array([1.0, 0, 1, 1, 0, 0]), list("aabbcc")
    found = by_group(ACC, {"acc": right}, list("xyxyxy"), clusters=names)
    assert found["x"] == of([1, 1, 0]) and found["y"] == of([0, 1, 0]), "one item of each cluster"
    found = by_group(ACC, {"acc": right}, list("xxxxyy"), clusters=names)
    assert found["x"] == of([1, 0, 1, 1], list("aabb")) and found["y"].stderr is None


def test_a_long_name_is_told_by_its_digest() -> None:
    assert named("table 3") == "table 3" and named("") == ""
    long = "一段文章。" * 30
    assert named(long) == named(long) != named(long + "。") and len(named(long)) == 16
    assert len(named("\ud800" * 50)) == 16


# ----------------------------------------------------------------------------------------------------- two models


def result(acc: Any, clusters: Sequence[str], **more: Any) -> Result:
    ids = tuple(f"q{number}" for number in range(len(acc)))
    columns = {"acc": np.asarray(acc, dtype=float)}
    return Result("quiz", "1", 0, False, ids, ("",) * len(ids), columns, (), metrics=(ACC,), clusters=tuple(clusters), **more)  # fmt: skip


def pair(before: Any, after: Any, clusters: Sequence[str]) -> Difference:
    return differences(result(before, clusters), result(after, clusters))[0]


def rivals(seed: int, trials: int, passages: int = 40, size: int = 6) -> Iterator[tuple[Any, Any]]:
    """Two models that are equally good, and each of which has passages that it reads better than the other."""
    random = np.random.default_rng(seed)
    for _ in range(trials):
        lean = np.repeat(random.uniform(-0.45, 0.45, passages), size)
        yield tuple(random.random(len(lean)) < 0.5 + side * lean for side in (-1, 1))


def test_equally_good_models_are_called_different_5_times_in_100_where_mcnemar_does_so_far_oftener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparing, "SWAPS", 999)
    monkeypatch.setattr(comparing, "spread", lambda *given, **more: Spread(None, None, None))
    names = questions(np.full(40, 6))
    drawn = list(rivals(4, 600))
    found = [pair(*both, names) for both in drawn]
    for which in ("p", "worse_p"):
        assert 0.03 <= np.mean([getattr(one, which) <= 0.05 for one in found]) <= 0.06
    plain = [pair(*both, ()) for both in drawn]
    assert all((one.p, one.worse_p) == mcnemar(len(one.better), len(one.worse)) for one in plain)
    assert np.mean([one.p <= 0.05 for one in plain]) > 0.12


def test_the_interval_of_a_difference_leaves_out_nothing_5_times_in_100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "SWAPS", 1)
    monkeypatch.setattr(comparing, "spread", partial(spread, count=1000))
    names, kept = questions(np.full(40, 6)), {True: 0, False: 0}
    for before, after in rivals(6, 300):
        for hang in kept:
            seen = pair(before, after, names if hang else ())
            kept[hang] += seen.low <= 0 <= seen.high  # type: ignore[operator]
    assert 0.93 <= kept[True] / 300 <= 0.97 and kept[False] / 300 < 0.9


def test_a_difference_across_clusters_is_found_and_one_of_a_single_cluster_is_not() -> None:
    names = questions(np.full(50, 4))
    before = np.tile([1, 1, 1, 0], 50)
    spread_out, in_one = before.copy(), before.copy()
    spread_out[::8] = 0
    seen = pair(before, spread_out, names)
    assert seen.high < 0 and worse([seen]) and len(seen.worse) == 25  # type: ignore[operator]
    long = ["long"] * 40 + names[40:]
    in_one[:25] = 0
    lost = pair(before, in_one, long)
    assert len(lost.worse) == 19 and mcnemar(0, 19)[0] < 0.0001
    assert lost.p > 0.9 and not worse([lost]) and lost.high >= 0, "one passage says nothing of others"  # type: ignore[operator]


def test_a_total_of_two_models_is_compared_by_clusters() -> None:
    random = np.random.default_rng(9)
    sizes = np.full(30, 5)
    words = random.poisson(30, 150) + 1.0
    lean = np.repeat(random.uniform(-0.3, 0.3, 30), 5)
    columns = [{"hits": np.floor(words * (0.5 + side * lean)), "words": words} for side in (-1, 1)]
    ids, alone = tuple(map(str, range(150))), ("",) * 150
    apart = [
        differences(*(Result("t", "1", 0, False, ids, alone, one, (), metrics=(RATE,), clusters=names) for one in columns))[0]
        for names in (tuple(questions(sizes)), ())
    ]  # fmt: skip
    hang, stand = apart
    assert hang.value == stand.value and hang.stderr > 1.7 * stand.stderr and hang.p > stand.p  # type: ignore[operator]


def test_models_that_never_differ_are_as_certainly_equal_as_the_clusters_are_many() -> None:
    seen = pair([1, 0] * 10, [1, 0] * 10, questions(np.full(5, 4)))
    assert (seen.value, seen.p) == (0, 1) and seen.high == pytest.approx(wilson(0.0, 5)[1])


def test_clusters_are_kept_and_an_older_file_takes_those_of_the_newer() -> None:
    names = questions(np.full(10, 4))
    before, after = np.tile([1, 0], 20), np.tile([1, 1, 0, 0], 10)
    new = result(after, names)
    told = json.loads(json.dumps(new.to_json()))
    assert Result.from_json(told).clusters == new.clusters == tuple(names)
    del told["clusters"]
    assert Result.from_json(told).clusters == ()
    old = result(before, ())
    known = differences(result(before, names), new)
    assert differences(old, new) == known
    assert differences(new, old) == differences(new, result(before, names))
    turned = replace(old, ids=old.ids[::-1], columns={"acc": old.columns["acc"][::-1]})
    assert differences(turned, new) == known, "by id, in any order"


# ---------------------------------------------------------------------------------------------------- through a run

PASSAGES = {"Ann ran.": [("Who ran?", "Ann"), ("Who slept?", ""), ("What did Ann?", "ran")],
            "李白写诗。": [("谁写诗？", "李白"), ("写什么？", "诗")],
            "It rained.": [("What did it do?", "rained")]}  # fmt: skip


def squad(folder: Path) -> Path:
    """A file as it is published, with an article of three passages."""
    paragraphs = [
        {"context": context, "qas": [
            {"id": f"{context[:2]}{number}", "question": question, "is_impossible": not answer,
             "answers": [{"text": answer, "answer_start": context.index(answer)}] if answer else []}
            for number, (question, answer) in enumerate(asked)]}
        for context, asked in PASSAGES.items()
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "dev-v2.0.json").write_text(json.dumps({"version": "v2.0", "data": [{"title": "T", "paragraphs": paragraphs}]}), "utf-8")  # fmt: skip
    return folder


class Reader(ScriptedLLM):
    """Knows of people only."""

    def __init__(self, name: str = "reader", *known: str) -> None:
        super().__init__(lambda prompt: next((one for one in known if one in prompt.rsplit("Background: ", 1)[1]), "none"))  # fmt: skip
        self.name = name

    def score(self, pairs: Sequence[tuple[Any, str]]) -> list[Score]:
        return [Score(-1.0 - len(str(context)) / 50, False, 2) for context, _ in pairs]


def test_a_file_of_passages_is_measured_by_passages(tmp_path: Path) -> None:
    data = Data((squad(tmp_path / "data"),))
    (task,) = tasks(["squadv2"], data)
    task.metrics = task.metrics[:7]  # with one that takes a bootstrap
    outcome = run(Reader("a", "Ann", "李白"), [task], folder=tmp_path / "a")
    assert outcome.notes == ("squadv2: 6 items in 3 clusters; errors take them as such",)
    (found,) = outcome.results
    assert len(set(found.clusters)) == 3 and found.clusters[0] == found.clusters[2] != found.clusters[3]
    for metric, figure in zip(found.metrics, found.figures, strict=True):
        known = estimate(metric, found.columns, clusters=found.clusters)
        assert (figure.value, figure.stderr, figure.low, figure.high) == (known.value, known.stderr, known.low, known.high)  # fmt: skip
    exact = found.figure("exact")
    by_hand = [1 - 3 * 2 / 6, 1 - 2 * 2 / 6, 0 - 2 / 6]  # of 3, 2 and 1 answers 1, 1 and 0 are right
    assert exact.value == pytest.approx(2 / 6)
    assert exact.stderr == pytest.approx(math.sqrt(3 / 2 * sum(one**2 for one in by_hand)) / 6)
    plain = estimate(found.metrics[0], found.columns)
    assert exact.stderr != plain.stderr and exact.high > plain.high  # type: ignore[operator]
    assert found.figure("NoAns_exact").stderr is None, "one question has no answer"
    page = report.html(outcome)
    assert page.count("errors take them as such") == 1
    found = replace(found, metrics=found.metrics[:1])
    other = replace(found, columns={**found.columns, "exact": 1 - found.columns["exact"]})
    (apart,) = differences(found, other)
    assert (apart.metric, apart.items) == ("exact", 6)
    assert apart.p >= 1 / 4, "of three coins the rarest throw comes once in four times"
    back = Outcome.from_json(json.loads(json.dumps(outcome.to_json())))
    assert back.results[0].clusters == found.clusters


def test_a_task_of_items_that_stand_alone_says_nothing_of_clusters(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "a?", "answer": "b"}\n{"question": "c?", "answer": "d", "cluster": "x"}\n')
    outcome = run(ScriptedLLM(lambda prompt: "b"), own.read(str(path)))
    assert outcome.notes == () and outcome.results[0].clusters == ()
    assert outcome.results[0].to_json()["clusters"] == []


# ----------------------------------------------------------------------------------------------------------- tasks


def clusters_of(name: str, folder: Path, files: dict[str, str]) -> list[str]:
    for place, text in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text, "utf-8")
    (task,) = tasks([name], Data((folder,)))
    return [item.cluster for item in task.items()]


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_passages_tables_and_twins_are_clusters(tmp_path: Path) -> None:
    one, two = "A passage of some length about a thing. ", "Another passage of some length about it."
    boolq = [{"question": "q", "passage": text, "label": 1, "idx": place} for place, text in enumerate((one, two, one))]
    found = clusters_of("boolq", tmp_path / "b", {"BoolQ/val.jsonl": lines(*boolq)})
    assert found == [named(one), named(two), named(one)]
    mixed = [{"query": f"Passage: {text}\nQuestion: is it?", "gold": 1} for text in (one, two)]
    assert clusters_of("boolq", tmp_path / "m", {"boolq.jsonl": lines(*mixed)}) == [named(one), named(two)]
    sentence = {"sentence": "Ann beat Eve as _ was fast.", "option1": "Ann", "option2": "Eve", "answer": "1"}
    twins = lines(*({**sentence, "qID": id} for id in ("3QHIT-1", "3QHIT-2", "3FCO-2", "odd")))
    assert clusters_of("winogrande", tmp_path / "w", {"winogrande/dev.jsonl": twins}) == ["3QHIT", "3QHIT", "3FCO", ""]
    assert clusters_of("winogrande", tmp_path / "h", {"winogrande/dev.jsonl": lines(sentence)}) == [""], "ids of ours"
    table = "id\tutterance\tcontext\ttargetValue\nnu-1\twho?\tcsv/1.csv\tAnn\nnu-2\thow?\tcsv/2.csv\t1\nnu-3\thow?\tcsv/1.csv\t1\n"
    files = {"W/data/pristine-unseen-tables.tsv": table, "W/csv/1.csv": '"a"\n"b"\n', "W/csv/2.csv": '"a"\n"c"\n'}
    first, second, third = clusters_of("wikitablequestions", tmp_path / "t", files)
    assert first == third != second


def test_the_shared_samples_have_the_clusters_of_their_passages(shared: Path) -> None:
    for name, items, clusters in (("cmrc", 1002, 256), ("boolq", 300, 292), ("wikitablequestions", 400, 121)):
        (task,) = tasks([name], Data((shared,)))
        found = Clusters.of([item.cluster for item in task.items()])
        assert found is not None and (len(found.number), found.count) == (items, clusters)


def test_one_s_own_rows_name_what_they_hang_on(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "answer": "a", "cluster": name, "text": f"text {name}"} for name in ("x", 3, None, "", "x")
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text(lines(*rows))
    (task,) = own.read(str(path))
    assert [item.cluster for item in task.items()] == ["x", "3", "", "", "x"]
    for kind, more in (("answer", ""), ("judged", "judge: x\n")):
        (tmp_path / "mine.yaml").write_text(f"kind: {kind}\n{more}data: mine.jsonl\ncluster: text\n")
        (task,) = own.read(str(tmp_path / "mine.yaml"))
        assert [item.cluster for item in task.items()][:2] == ["text x", "text 3"]
    (tmp_path / "mine.yaml").write_text("kind: choice\ncluster: passage\nitems: [{question: q, choices: [a, b], answer: 0}]\n")  # fmt: skip
    with pytest.raises(DataError, match="item 1: there is no column 'passage'"):
        own.read(str(tmp_path / "mine.yaml"))[0].items()
    path.write_text(lines({"question": "q", "answer": "a", "cluster": ["x"]}))
    with pytest.raises(DataError, match=r"line 1: cluster holds \['x'\]"):
        own.read(str(path))[0].items()


def test_questions_about_documents_may_name_what_they_hang_on(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.txt").write_text("Ann ran.")
    rows = [{"question": "Who ran?", "answer": "Ann", "file": "a.txt"}, {"question": "Why?", "answerable": False}]
    (tmp_path / "questions.jsonl").write_text(lines({**rows[0], "cluster": "report"}, rows[1]))
    (task,) = tasks([f"rag:{tmp_path}"], Data(()))
    assert [item.cluster for item in task.items()] == ["report", ""]
