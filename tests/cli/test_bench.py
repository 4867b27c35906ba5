"""bench: turns are taken fairly, figures are what they say, and a program that fails is named and stops nobody."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from hornbook.cli import bench, main
from hornbook.cli.benching import workers
from hornbook.cli.benching.plot import svg
from hornbook.cli.benching.rows import ALL, MEMORY, SHARED, Row, decode, prefill, run
from hornbook.cli.benching.workers import Worker, WorkerFailed, command_of
from hornbook.errors import UsageError

PEER = """\
import sys, time
from hornbook.cli.benching.protocol import Peer, serve

class Toy(Peer):
    name, version, vocab_size = "toy", "1", 1000
    def __init__(self, model, threads):
        print("noise on standard output")
        self.model = model
        if model.endswith("missing"):
            raise FileNotFoundError(model)
    def decode(self, batch, tokens, prompt):
        if batch == 4:
            raise ValueError("four\\nare too many")
        if batch == 16:
            sys.exit("the program fell over")
        return 0.5
    def prefill(self, tokens): return 0.25
    def shared_prefix(self, tokens, tail): return 2.0, 0.1
    def close(self): open(self.model + ".closed", "w").close()

serve(Toy)
"""


class Program:
    """Answers with the seconds that it is given, and notes its turns in ``log``."""

    def __init__(self, name: str, seconds: list[float], log: list[str]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def __call__(self, **request: Any) -> dict[str, Any]:
        self.log.append(self.name)
        if not self.seconds:
            raise WorkerFailed("tired")
        return {"seconds": self.seconds.pop(0)}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.py"
    path.write_text(PEER, "utf-8")
    return path


def test_programs_take_turns_and_the_first_round_does_not_count() -> None:
    log: list[str] = []
    programs = [Program("a", [9.0, 1.0, 2.0, 4.0], log), Program("b", [9.0, 4.0, 4.0, 8.0], log)]
    row = run(decode(16), programs, 3, 0)
    assert log == ["a", "b"] * 4
    assert row.figures["a"] == [512.0, 256.0, 128.0]  # 16 x 32 tokens
    assert row.median("a") == 256
    assert row.ratio("a", "b") == 2


def test_a_program_that_fails_is_left_out_and_the_others_go_on() -> None:
    log: list[str] = []
    row = run(prefill(512), [Program("a", [1.0] * 3, log), Program("b", [], log)], 2, 0)
    assert row.failed == {"b": "tired"}
    assert log == ["a", "b", "a", "a"]
    assert row.ratio("a", "b") is None
    assert row.to_json()["median"] == {"a": 512, "b": None}


def test_less_is_better_where_it_is() -> None:
    assert Row(SHARED, {"a": [5.0], "b": [10.0]}).ratio("a", "b") == 2
    assert SHARED.figure({"first": 2.0, "second": 0.1}, 0) == pytest.approx(5)
    assert MEMORY.figure({"peak": 300_000_000}, 100_000_000) == 200
    assert MEMORY.figure({"peak": None}, 1) is None


def test_the_plot_is_well_formed_and_says_what_it_shows() -> None:
    rows = [Row(decode(1), {"hornbook": [300.0], "a < b": [100.0]}), Row(MEMORY, {"hornbook": [], "a < b": []})]
    drawn = ElementTree.fromstring(svg(rows, "<title> & 中文"))
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "<title> & 中文" in texts
    assert "a < b" in texts
    bars = [float(e.attrib["width"]) for e in drawn.iter("{http://www.w3.org/2000/svg}rect") if "x" in e.attrib][2:]
    assert bars[0] == pytest.approx(3 * bars[1], abs=0.2)


def test_a_worker_answers_fails_by_name_and_ends_with_its_input(toy: Path, tmp_path: Path) -> None:
    worker = Worker(command_of(str(toy)), tmp_path / "model", 2)
    assert (worker.name, worker.about["version"]) == ("toy", "1")
    assert worker(measure="prefill", tokens=5) == {"seconds": 0.25}
    with pytest.raises(WorkerFailed, match="four are too many"):
        worker(measure="decode", batch=4, tokens=1, prompt=1)
    with pytest.raises(WorkerFailed, match="nothing is known of 'dance'"):
        worker(measure="dance")
    assert worker(measure="memory", tokens=5)["peak"] > 1_000_000
    with pytest.raises(WorkerFailed, match="does not tell likelihoods"):
        worker(measure="likelihood", text="a")
    worker.close()
    assert (tmp_path / "model.closed").exists()


def test_a_program_that_dies_leaves_its_last_words(toy: Path, tmp_path: Path) -> None:
    worker = Worker(command_of(str(toy)), tmp_path / "model", 1)
    with pytest.raises(WorkerFailed, match="the program fell over"):
        worker(measure="decode", batch=16, tokens=1, prompt=1)
    worker.close()
    with pytest.raises(WorkerFailed, match="FileNotFoundError"):
        Worker(command_of(str(toy)), tmp_path / "missing", 1)
    with pytest.raises(WorkerFailed, match="No module named"):
        Worker([sys.executable, "-m", "no_such_module_here"], tmp_path / "model", 1)


def test_peers_are_found_by_name_in_the_source_and_by_path_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PEERS", Path(__file__).parents[2] / "benchmarks" / "peers")  # wherever hornbook lies
    assert command_of("llamacpp")[-1].endswith("benchmarks/peers/llamacpp.py")
    with pytest.raises(UsageError, match="no program vllm") as caught:
        command_of("vllm")
    assert "llamacpp, transformers" in caught.value.remedy
    monkeypatch.setattr(workers, "PEERS", Path("nowhere"))
    with pytest.raises(UsageError) as caught:
        command_of("llamacpp")
    assert "give the path" in caught.value.remedy


def test_the_whole_verb(
    toy: Path, tiny_llm_path: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plot, output = tmp_path / "plot.svg", tmp_path / "out.json"
    only = "decode_1,decode_4,prefill_512"
    given = ["bench", str(tiny_llm_path), "--against", str(toy), "--rounds", "1", "--threads", "1", "--only", only]
    with pytest.raises(SystemExit) as end:
        main([*given, "--plot", str(plot), "-o", str(output), "--json"])
    out, err = capfd.readouterr()
    assert end.value.code in (0, None), err
    result = json.loads(out)
    assert result == json.loads(output.read_text("utf-8"))
    assert plot.read_text("utf-8").startswith("<svg")
    assert [program["name"] for program in result["programs"]] == ["hornbook", "toy"]
    one, four, long = result["rows"]
    assert one["median"]["hornbook"] > 0
    assert one["ratio"]["toy"] == pytest.approx(one["median"]["hornbook"] / one["median"]["toy"], rel=0.01)
    assert "four are too many" in four["failed"]["toy"]
    assert "256" in long["failed"]["hornbook"], "a prompt of 512 tokens does not fit, which must be said"
    assert "toy has no figure" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "decode_1,dance"], "no measure dance"),
        (["--against", "vllm"], "no program vllm"),
        (["--rounds", "0"], "rounds"),
    ],
)
def test_wrong_use_is_named_before_anything_is_loaded(
    options: list[str], words: str, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", *options])
    assert end.value.code == 2
    assert words in capfd.readouterr().err


def test_the_table_has_a_column_a_program_and_a_ratio_each() -> None:
    rows = [Row(decode(1), {"hornbook": [300.0], "llama.cpp": [100.0]}), Row(MEMORY, {"hornbook": [], "llama.cpp": []})]
    lines = bench.table(rows, ["hornbook", "llama.cpp"]).splitlines()
    assert lines[0].split() == ["hornbook", "llama.cpp", "/", "llama.cpp"]
    assert lines[1].split()[-3:] == ["300", "100", "3.00x"]
    assert lines[2].split()[-3:] == ["-", "-", "-"]


def test_measures_have_keys_of_their_own() -> None:
    assert len({measure.key for measure in ALL}) == len(ALL)
