"""Collections on disk: names, files by content, what a kill leaves behind, a search without what was deleted."""

from __future__ import annotations

import hashlib
import io
import re
import stat
import zipfile
from pathlib import Path

import pytest

from hornbook.errors import UsageError
from hornbook.serve.errors import AlreadyThere, NotThere, TooLarge
from hornbook.serve.kb import names, unzip
from hornbook.serve.kb.collections import Collection, Collections
from hornbook.serve.kb.taking import Taken, take
from hornbook.serve.kb.upload import Intake, Received
from hornbook.settings import Settings
from word_embedder import WordEmbedder


@pytest.fixture
def collections(home: Path) -> Collections:
    return Collections(home / "collections", Settings.load())


def put(collection: Collection, given: str, data: bytes) -> Taken:
    path = collection.incoming / hashlib.sha256(given.encode() + data).hexdigest()
    path.write_bytes(data)
    file = Received(given, path, len(data), hashlib.sha256(data).hexdigest())
    return take(collection, [file], max_bytes=1 << 22, max_file_bytes=1 << 21)


def read(collection: Collection) -> None:
    index = collection.open_index(collection.index_folder, WordEmbedder())
    index.ingest([collection.files])
    index.close()


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["papers", "Papers-2024", "论文", "日本語_1", "مقالات", "a", "x" * 64, "हिन्दी"])
def test_names_in_any_language_make_a_folder_of_that_name(name: str, collections: Collections) -> None:
    assert collections.create(name).folder == collections.folder / name
    assert collections.names() == [name]


@pytest.mark.parametrize(
    "name",
    ["..", ".", ".hidden", "a/b", "a\\b", "/etc", "a b", "a.b", "-a", "_a", "a\0b", "x" * 65, "CON", "nul", "com1", "a\n", "ａ", "a\u202eb", "①",
     "kb:a", "%2e%2e", "a?b", "~", "C:", "🐼", "\ud800"],
)  # fmt: skip
def test_a_name_that_could_be_anything_else_is_refused(name: str, collections: Collections) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        collections.create(name)
    with pytest.raises(NotThere):
        collections.get(name)
    assert not list(collections.folder.iterdir())


def test_a_title_makes_a_name_and_two_of_one_name_are_refused(collections: Collections) -> None:
    made = collections.create(title="  My papers (2024)! ")
    assert (made.name, made.describe()["title"]) == ("my-papers-2024", "My papers (2024)!")
    assert collections.create(title="我的 论文").name == "我的-论文"
    with pytest.raises(AlreadyThere):
        collections.create("MY-PAPERS-2024")
    with pytest.raises(UsageError):
        collections.create(title="!!!")


@pytest.mark.parametrize(
    ("given", "name", "folder"),
    [
        ("../../etc/passwd", "passwd", "etc"),
        ("C:\\Users\\me\\a.pdf", "a.pdf", "Users/me"),
        ("/abs/x.md", "x.md", "abs"),
        ("a/./b/../c.txt", "c.txt", "a/b"),
        ("", "document", ""),
        ("..", "document", ""),
        ("<img src=x onerror=alert(1)>.html", "<img src=x onerror=alert(1)>.html", ""),
        ("evil\u202efdp.exe\r\nX: y", "evil fdp.exe X: y", ""),
        ("熊猫/报告.pdf", "报告.pdf", "熊猫"),
    ],
)
def test_what_a_client_calls_a_file_is_words_to_show(given: str, name: str, folder: str) -> None:
    assert names.document_name(given) == (name, folder)


def test_a_long_name_keeps_the_end_that_says_what_it_is() -> None:
    name, _ = names.document_name("x" * 1000 + ".pdf")
    assert len(name) <= names.LONGEST_SHOWN and name.endswith(".pdf")


# --------------------------------------------------------------------------------------------------------------- files


def test_a_file_is_stored_by_what_it_holds_and_the_same_twice_is_one(collections: Collections) -> None:
    papers = collections.create("papers")
    first = put(papers, "../../deep/../kiwi.txt", b"The kiwi lays one egg.")
    again = put(papers, "other name.md", b"The kiwi lays one egg.")
    (document,), (same,) = first.documents, again.documents
    assert (document["name"], document["folder"], document["duplicate"]) == ("kiwi.txt", "deep", False)
    assert same["id"] == document["id"] and same["name"] == "kiwi.txt" and same["duplicate"]
    assert [file.name for file in papers.files.iterdir()] == [f"{document['id']}.txt"]
    assert not list(papers.incoming.iterdir())


@pytest.mark.parametrize(
    ("given", "data", "said"),
    [
        ("a.txt", b"", "empty"),
        ("a.doc", b"\xd0\xcf\x11\xe0", "save it as .docx"),
        ("a.exe", b"MZ\0\0", "not supported"),
        ("a", b"\0\1\2", "binary"),
    ],
)
def test_what_no_parser_reads_is_refused_by_name_and_not_kept(
    given: str, data: bytes, said: str, collections: Collections
) -> None:
    papers = collections.create("papers")
    taken = put(papers, given, data)
    assert taken.documents == [] and said in taken.errors[0]["error"] and taken.errors[0]["name"] == given
    assert not list(papers.files.iterdir()) and not list(papers.incoming.iterdir())


def test_what_programs_leave_in_a_folder_is_left_out_without_a_warning(collections: Collections) -> None:
    papers = collections.create("papers")
    for given in ("x/.git/config", "x/.DS_Store", "x/~$report.docx", "x/node_modules/a.js", "x/Thumbs.db"):
        taken = put(papers, given, b"text")
        assert taken.skipped and not taken.errors and not taken.documents, given
    assert put(papers, ".hidden.txt", b"asked for by name").documents


# -------------------------------------------------------------------------------------------------------------- killed


def test_what_a_kill_leaves_behind_is_swept_and_what_was_begun_waits_again(collections: Collections) -> None:
    papers = collections.create("papers")
    kept, gone, reading = (put(papers, f"{n}.txt", f"text {n}".encode()).documents[0]["id"] for n in range(3))
    papers.catalogue.change(kept, state="ready", passages=1)
    papers.catalogue.change(reading, state="reading")
    (papers.files / f"{gone}.txt").unlink()
    (papers.files / "no-row.txt").write_text("renamed, and killed before its row was written")
    (papers.incoming / "half").write_text("half an upl")
    (papers.folder / "index-7").mkdir()
    for left in (".new-1", ".gone-1"):
        (collections.folder / left).mkdir()
    collections.close()

    again = Collections(collections.folder, Settings.load())
    papers = again.get("papers")
    states = {document.id: document.state for document in papers.catalogue.documents()}
    assert states == {kept: "ready", gone: "failed", reading: "waiting"}
    assert {file.stem for file in papers.files.iterdir()} == {kept, reading}
    assert not list(papers.incoming.iterdir()) and not (papers.folder / "index-7").exists()
    assert again.names() == ["papers"] and sorted(at.name for at in again.folder.iterdir()) == ["papers"]


def test_a_collection_is_deleted_whole_and_those_who_search_it_are_told(collections: Collections) -> None:
    papers = collections.create("papers")
    put(papers, "a.txt", b"The kiwi lays one egg.")
    shelf = papers.shelf(WordEmbedder())
    collections.delete("papers")
    assert not list(collections.folder.iterdir())
    for use in (lambda: shelf.search("kiwi"), lambda: collections.get("papers"), lambda: collections.delete("papers")):
        with pytest.raises(NotThere):
            use()
    assert collections.create("papers").catalogue.documents() == []


# ------------------------------------------------------------------------------------------------------------ searched


def test_a_deleted_document_is_not_found_though_the_index_has_it_still(collections: Collections) -> None:
    papers = collections.create("papers")
    ids = [put(papers, f"{n}.txt", f"The kiwi number {n} lays one egg.".encode()).documents[0]["id"] for n in range(12)]
    read(papers)
    shelf = papers.shelf(WordEmbedder())
    assert len(shelf.search("kiwi egg", 5)) == 5
    for id in ids[:9]:
        papers.remove(id)
    found = {Path(hit.document.path).stem for hit in shelf.search("kiwi egg", 5)}
    assert found == set(ids[9:])
    assert [Path(hit.document.path).stem for hit in shelf.search("kiwi", 5, documents=[ids[10]])] == [ids[10]]
    assert shelf.search("kiwi", 5, documents=[ids[0]]) == []


def test_the_old_index_answers_until_the_new_one_is_whole(collections: Collections) -> None:
    papers = collections.create("papers")
    put(papers, "a.txt", b"The kiwi lays one egg.")
    read(papers)
    shelf = papers.shelf(WordEmbedder())
    folder = papers.begin_rebuilding()
    assert folder == papers.begin_rebuilding() != papers.index_folder
    assert shelf.search("kiwi", 1)
    index = papers.open_index(folder, WordEmbedder())
    index.ingest([papers.files])
    index.close()
    old = papers.index_folder
    papers.finish_rebuilding()
    assert papers.index_folder == folder and not old.exists() and papers.rebuilding is None
    assert shelf.search("kiwi", 1)


def test_a_damaged_index_is_begun_anew_and_its_documents_wait_to_be_read_again(collections: Collections) -> None:
    papers = collections.create("papers")
    id = put(papers, "a.txt", b"The kiwi lays one egg.").documents[0]["id"]
    read(papers)
    papers.catalogue.change(id, state="ready")
    papers.forget_index()
    (papers.index_folder / "index.sqlite").write_bytes(b"no database at all " * 500)
    assert papers.shelf(WordEmbedder()).search("kiwi") == []
    assert (
        papers.is_begun_anew and papers.document(id).state == "waiting" and "damaged" in papers.describe()["notices"][0]
    )


def test_a_damaged_collection_keeps_no_other_from_being_used_and_can_be_deleted(collections: Collections) -> None:
    collections.create("good")
    collections.create("bad")
    collections.close()
    for file in (collections.folder / "bad").glob("collection.sqlite*"):
        file.write_bytes(b"no database at all " * 500)
    again = Collections(collections.folder, Settings.load())
    found, broken = again.all()
    assert [one.name for one in found] == ["good"] and "bad" in broken["bad"].what and broken["bad"].remedy
    again.delete("bad")
    assert again.names() == ["good"]


def test_a_home_that_was_moved_gets_a_new_index(collections: Collections) -> None:
    put(collections.create("papers"), "a.txt", b"The kiwi lays one egg.")
    collections.close()
    moved = collections.folder.rename(collections.folder.with_name("elsewhere"))
    papers = Collections(moved, Settings.load()).get("papers")
    assert papers.rebuilding is not None and papers.catalogue.counts()["waiting"] == 1


# ------------------------------------------------------------------------------------------------------------ archives


def archive(*files: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as made:
        for name, data in files:
            made.writestr(name, data)
    return held.getvalue()


def test_an_archive_becomes_its_documents(collections: Collections) -> None:
    papers = collections.create("papers")
    taken = put(
        papers,
        "up/all.zip",
        archive(("a/kiwi.txt", b"one egg"), ("a/.git/x", b"y"), ("b/b/c.md", "竹子".encode()), ("d/", b"")),
    )
    assert [(one["folder"], one["name"]) for one in taken.documents] == [("up/a", "kiwi.txt"), ("up/b/b", "c.md")]
    assert [one["name"] for one in taken.skipped] == ["up/a/.git/x"] and not taken.errors
    assert not list(papers.incoming.iterdir())


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link.txt")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (archive(("../../evil.txt", b"x")), "leads out"),
        (archive(("/etc/cron.d/evil", b"x")), "leads out"),
        (archive(("..\\evil.txt", b"x")), "leads out"),
        (archive(("C:/evil.txt", b"x")), "leads out"),
        (archive((link(), b"/etc/passwd")), "a link"),
        (archive(("inner.zip", archive(("a.txt", b"x")))), "archive inside"),
        (archive(("bomb.txt", b"0" * (1 << 20) * 3)), "larger than|zip bomb"),
        (archive(("bomb.txt", b"0" * ((1 << 20) + (1 << 19)))), "zip bomb"),
        (b"PK\x03\x04 and no more", "no ZIP"),
        (archive(("a.txt", b"abcdefgh" * 50), method=zipfile.ZIP_STORED).replace(b"abcdefghabc", b"abcdXfghabc", 1), "unpacked"),
        (archive(("locked.txt", b"x")).replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"), "password"),
    ],
    ids=["up", "absolute", "backslash", "drive", "link", "nested", "huge", "ratio", "cut", "checksum", "locked"],
)  # fmt: skip
def test_what_no_honest_archive_holds_is_refused_and_leaves_nothing(
    data: bytes, said: str, collections: Collections
) -> None:
    papers = collections.create("papers")
    before = set(collections.folder.rglob("*"))
    taken = put(papers, "evil.zip", data)
    assert taken.documents == []
    assert len(taken.errors) == 1 and re.search(said, taken.errors[0]["error"]), taken.errors
    assert set(collections.folder.rglob("*")) == before


def test_an_archive_of_too_many_or_too_much_ends_where_it_passes_the_limit(
    collections: Collections, tmp_path: Path
) -> None:
    many = tmp_path / "many.zip"
    many.write_bytes(archive(*((f"{n}.txt", b"x") for n in range(9))))
    with pytest.raises(unzip.TooMuch, match="more files"):
        list(unzip.entries(many, unzip.Room(5, 1 << 20), max_bytes=100))
    much = tmp_path / "much.zip"
    much.write_bytes(archive(*((f"{n}.txt", bytes(range(256)) * 4) for n in range(9)), method=zipfile.ZIP_STORED))
    with pytest.raises(unzip.TooMuch, match="more than may be uploaded"):
        for entry in unzip.entries(much, unzip.Room(50, 4000), max_bytes=2000):
            assert isinstance(entry, unzip.Entry)
            list(entry.blocks())
    table = tmp_path / "table.zip"
    table.write_bytes(archive(("a.txt", b"x"))[:-10] + (1 << 30).to_bytes(4, "little") + bytes(6))
    with pytest.raises(unzip.TooMuch, match="table of contents"):
        list(unzip.entries(table, unzip.Room(5, 1 << 20), max_bytes=100))


# ----------------------------------------------------------------------------------------------------------- multipart


def body(*files: tuple[str, bytes], end: bool = True) -> bytes:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="'
        + name.encode()
        + b'"\r\n\r\n'
        + data
        + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + (b"--x--\r\n" if end else b"")


def intake(folder: Path, **limits: int) -> Intake:
    return Intake("multipart/form-data; boundary=x", folder, **({"max_bytes": 10_000, "max_file_bytes": 100} | limits))


def test_a_body_in_any_pieces_is_the_same_files(tmp_path: Path) -> None:
    whole = body(("a/b.txt", b"one\r\n--not the end"), ("文.md", "竹".encode()))
    for size in (1, 7, 64, 10_000):
        taking = intake(tmp_path)
        for at in range(0, len(whole), size):
            taking.feed(whole[at : at + size])
        first, second = taking.finish()
        assert (first.name, first.path.read_bytes()) == ("a/b.txt", b"one\r\n--not the end")
        assert (second.name, second.sha256) == ("文.md", hashlib.sha256("竹".encode()).hexdigest())
        taking.discard()
        assert not list(tmp_path.iterdir())


def test_a_file_beyond_the_limit_ends_that_file_and_a_body_beyond_it_the_request(tmp_path: Path) -> None:
    taking = intake(tmp_path)
    taking.feed(body(("large.txt", b"x" * 101), ("small.txt", b"y")))
    large, small = taking.finish()
    assert large.too_large and not large.path.exists() and small.path.exists()
    taking = intake(tmp_path, max_bytes=50)
    with pytest.raises(TooLarge):
        taking.feed(body(("a.txt", b"x" * 100)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no boundary",
        body(("a.txt", b"x"), end=False),
        b"--x\r\nno header\r\n\r\n--x--",
        b"--x\r\n" + b"A: " + b"b" * 9000,
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(data: bytes, tmp_path: Path) -> None:
    taking = intake(tmp_path)
    with pytest.raises(UsageError):
        taking.feed(data)
        taking.finish()
    taking.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "kind", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=", "text/plain; boundary=x"]
)
def test_another_content_type_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multipart/form-data"):
        Intake(kind, tmp_path, max_bytes=10, max_file_bytes=10)
