"""hornbook runs: the list, one run, several compared, and a run that is followed while it is under way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_runs import make_run, step, validation
from hornbook.cli import console, curve, following
from hornbook.cli.runs import differences
from hornbook.errors import TrainingError


@pytest.fixture
def runs(home: Path) -> Path:
    folder = home / "runs"
    make_run(folder / "telegram", 100, recipe={"recipe": "sft", "training": {"rate": 1e-3, "seed": 0}})
    make_run(folder / "电报-二", 60, recipe={"recipe": "sft", "training": {"rate": 2e-3}, "adapter": {"kind": "lora"}})
    make_run(folder / "killed", 10, status="running", pid=1 << 80, model="\x1b[31mred")
    return folder


def test_runs_are_listed_with_what_became_of_them(runs: Path, run_here) -> None:  # type: ignore[no-untyped-def]
    os.utime(runs / "telegram" / "state.json", (1e9, 1e9))
    os.utime(runs / "telegram" / "metrics.jsonl", (1e9, 1e9))
    code, out, err = run_here("runs")
    head, *rows = out.splitlines()
    assert code == 0 and head.split() == ["name", "recipe", "model", "status", "steps", "loss", "held-out", "when"]
    assert len(rows) == 3 and rows[-1].startswith("telegram") and "days ago" in rows[-1], "the latest comes first"
    assert "finished     100/100  1.03" in rows[-1] and "1.5202" in rows[-1]
    killed = next(row for row in rows if row.startswith("killed"))
    assert "interrupted" in killed and "\x1b" not in out
    starts = {console.width(row[: row.index("smollm2")]) for row in rows if "smollm2" in row}
    assert len(starts) == 1, "wide characters do not push the columns apart"
    told = json.loads(run_here("runs", "--json")[1])
    assert {one["name"] for one in told["runs"]} == {"telegram", "电报-二", "killed"} and told["folder"] == str(runs)
    assert told["runs"][-1]["validation"]["step"] == 100


def test_without_runs_and_with_wrong_names_it_says_what_to_do(run_here, home: Path) -> None:  # type: ignore[no-untyped-def]
    assert run_here("runs") == (0, "", f"there are no runs in {home}/runs: hornbook train RECIPE.yaml makes one\n")
    assert run_here("runs", "--follow")[0] == 2
    make_run(home / "runs" / "telegram", 5)
    code, _, err = run_here("runs", "telegran")
    assert code == 2 and "there is no run 'telegran'" in err and "Did you mean telegram?" in err
    assert run_here("runs", "../telegram")[0] == run_here("runs", "telegram", "telegram", "--follow")[0] == 2
    assert run_here("runs", "telegram", "--follow", "--report")[0] == 2


def test_a_run_that_cannot_be_read_hides_no_other(home: Path, run_here) -> None:  # type: ignore[no-untyped-def]
    make_run(home / "runs" / "good", 5)
    (make_run(home / "runs" / "bad", 5) / "state.json").write_text("{")
    code, out, err = run_here("runs")
    assert code == 0 and "good" in out and "bad" not in out and "bad/state.json cannot be read" in err


def test_the_stages_of_a_chain_are_runs_of_their_own(home: Path, run_here) -> None:  # type: ignore[no-untyped-def]
    make_run(home / "runs" / "life" / "sft", 5)
    (home / "runs" / "life" / "merged").mkdir()
    make_run(home / "runs" / "sft", 7)
    make_run(home / "runs" / "sft" / "checkpoints" / "step-7", 7)
    names = {run["name"]: run["step"] for run in json.loads(run_here("runs", "--json")[1])["runs"]}
    assert names == {"life/sft": 5, "sft": 7}
    assert "5 of 5" in run_here("runs", "life/sft")[1] and "7 of 7" in run_here("runs", "sft")[1]


def test_one_run_is_shown_with_its_curve_and_reported(runs: Path, run_here) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run_here("runs", "telegram")
    assert code == 0 and "4.5 → 1.52" in out and "telegram · sft · smollm2:135m · finished" in out
    assert any("\u2801" <= char <= "\u28ff" for char in out) and str(runs / "telegram") in err
    told = json.loads(run_here("runs", str(runs / "telegram"), "--json")[1])
    assert [one["step"] for one in told["validations"]] == [0, 25, 50, 75, 100]
    code, out, _ = run_here("runs", "电报-二", "--report")
    assert code == 0 and out.strip() == str(runs / "电报-二" / "report.html") and Path(out.strip()).is_file()


def test_compared_runs_show_what_was_asked_differently_and_what_came_of_it(runs: Path, run_here) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run_here("runs", "telegram", "电报-二")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and ["training.rate", "0.001", "0.002"] in lines and ["training.seed", "0", "–"] in lines
    assert ["adapter.kind", "–", "lora"] in lines and not any(
        line[:1] == ["recipe"] and len(line) == 3 and line[1] == "sft" for line in lines
    )
    told = json.loads(run_here("runs", "telegram", "电报-二", "--json")[1])
    assert told["differences"]["adapter.kind"] == [None, "lora"]
    assert [row["step"] for row in told["losses"]] == list(range(6, 61, 6)), "only steps that both have reached"
    assert all(slow > fast for slow, fast in (row["losses"] for row in told["losses"][1:]))
    assert "the recipes are the same" in run_here("runs", "telegram", "telegram")[1]
    assert differences([{"a": [{"b": 1}], "c": []}, {"a": [{"b": 2}, {"b": 1}], "c": []}]) == {
        "a.0.b": [1, 2],
        "a.1.b": [None, 1],
    }


def test_a_followed_run_is_told_line_by_line_where_there_is_no_terminal(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(home / "runs" / "live", 0, status="running", pid=os.getpid(), steps=9)
    metrics = folder / "metrics.jsonl"

    def write(*rows: dict[str, Any]) -> None:
        with metrics.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def fail() -> None:
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**state, "status": "failed", "error": "the disk is full"}))

    training: list[Callable[[], object]] = [
        lambda: write(step(1, 3.5), step(2, 3.25)),
        lambda: write(step(3, None), validation(3, 3.0)),
        lambda: metrics.write_text(json.dumps(step(1, 3.5)) + "\n"),  # it goes on from a checkpoint
        lambda: write(step(2, 2.5)),
        fail,
    ]
    monkeypatch.setattr(following.time, "sleep", lambda _: training.pop(0)())
    with pytest.raises(TrainingError, match="live failed: the disk is full"):
        following.follow(folder)
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        "step 0/9  held-out loss 4.5000",
        "step 2/9  loss 3.2500  rate 5.00e-04  400 tokens/s",
        "step 3/9  loss none  rate 3.33e-04  400 tokens/s",
        "step 3/9  held-out loss 3.0000",
        "step 1/9  loss 3.5000  rate 1.00e-03  400 tokens/s",
        "step 2/9  loss 2.5000  rate 5.00e-04  400 tokens/s",
    ]
    assert "goes on from its last checkpoint" in err
    with pytest.raises(TrainingError, match="live failed"):
        following.follow(folder, as_json=True)
    assert [json.loads(line)["step"] for line in capfd.readouterr().out.splitlines()] == [1, 2]
    (folder / "state.json").write_text('{"status": "running", "pid": -1, "step": 2}')
    with pytest.raises(TrainingError, match="live was interrupted at step 2"):
        following.follow(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("width", [20, 78])
def test_on_a_terminal_the_curve_fits_it(runs: Path, width: int) -> None:
    import fcntl
    import pty
    import struct
    import termios

    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 20, width, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "hornbook", "runs", "电报-二", "--follow"]
    done = subprocess.run(command, stdout=inside, stderr=subprocess.DEVNULL, env=environment, timeout=60)
    os.close(inside)
    said = b""
    while True:
        try:
            said += (more := os.read(outside, 65536))
        except OSError:
            break
        if not more:
            break
    os.close(outside)
    text = said.decode()
    lines = [line for line in text.replace("\x1b[?25l", "").replace("\x1b[?25h", "").splitlines() if "\x1b" not in line]
    assert done.returncode == 0 and any("电报-二" in line for line in lines)
    assert all(console.width(line) <= width for line in lines) and any("\u2801" <= char <= "\u28ff" for char in text)


def test_curves_and_cropped_lines_keep_to_their_width() -> None:
    steps = list(range(1, 501))
    falling: list[float | None] = [501.0 - number for number in steps]
    for braille in (True, False):
        for width, height in ((18, 4), (60, 9)):
            lines = curve.draw(steps, falling, [(500, 0.0)], width=width, height=height, braille=braille)
            assert len(lines) == height + 1 and all(len(line) <= width for line in lines)
            assert float(lines[0].split()[0]) > 400 and lines[-1].endswith("500") and "o" in "".join(lines)
            assert ("*" in "".join(lines)) is not braille
    assert curve.draw([], [], [], width=20, height=4) == [] == curve.draw([1], [None], [], width=20, height=4)
    assert len(curve.draw([7], [2.0], [], width=20, height=4)) == 5
    assert curve.cropped("电报电报", 5) == "电报…" and curve.cropped("a\x1b[2J\nb", 20) == "a [2J b"


def test_every_command_of_the_page_runs(home: Path, run_here) -> None:  # type: ignore[no-untyped-def]
    for name in ("telegram", "telegram-2"):
        make_run(home / "runs" / name, 30)
    page = (Path(__file__).parents[2] / "docs" / "runs.md").read_text("utf-8")
    commands = [line.split("#")[0].split()[1:] for line in page.splitlines() if line.startswith("hornbook runs")]
    assert len(commands) == 5
    for command in commands:
        code, out, err = run_here(*command)
        assert code == 0 and out, (command, err)


def test_listing_runs_does_not_load_torch(runs: Path) -> None:
    code = "import sys; from hornbook.cli import runs, following; from hornbook.train import history, report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
