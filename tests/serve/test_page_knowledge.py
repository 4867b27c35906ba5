"""What a newcomer does with documents and models, in a real browser against a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import WAIT, Visit, Visitor
from serving import MODEL, Server

ZH = "灯塔守护者的笔记\n\n灯塔的灯每天晚上七点点亮，第二天早上六点熄灭。守护者每周清洗一次透镜。\n"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script> **bold** [1]"
EVIL_NAME = "<img src=x onerror=alert(1)>.txt"


# Chromium writes a line for every answer of 400 and above, also for those that the page expects and shows.
EXPECTED = re.compile(r"Failed to load resource: the server responded with a status of [45]")
Look = Callable[..., Visit]


@pytest.fixture
def look(server: Server, visit: Visitor) -> Iterator[Look]:
    """``look("/models")``: a browser at that address, which must not have complained or left this machine in the end."""
    looked: list[Visit] = []

    def begin(address: str, **options: Any) -> Visit:
        seen = visit(server, **options)
        looked.append(seen)
        seen.open(address)
        return seen

    yield begin
    for seen in looked:
        assert [fault for fault in seen.faults if not EXPECTED.match(fault)] == []
        assert seen.foreign == []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of three kinds and two languages, and one that attacks the page."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "灯塔.txt").write_text(ZH, "utf-8")
    orchard = "# The orchard\n\nThe orchard has 340 pear trees, planted in 1987 by Maria Lindqvist.\n\n"
    orchard += "# Storage\n\nPears are kept at two degrees in the north cellar. 🍐 The cellar was dug in 1991.\n"
    (folder / "orchard.md").write_text(orchard, "utf-8")
    (folder / EVIL_NAME).write_text(f"The zebra protocol says {HOSTILE} to all readers.\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def collection(server: Server, files: Path, shared: Path) -> Iterator[str]:
    """A collection that is ready to be asked; the tests of the page itself make their own."""
    name = server.post("/kb", {"title": "Shelf of tests"}).json()["name"]
    paths = [*sorted(files.iterdir()), shared / "docs" / "markitdown" / "REPAIR-2022-INV-001_multipage.pdf"]
    parts = [("files", (path.name, path.read_bytes())) for path in paths]
    with server.client() as client:
        answer = client.post(f"/kb/{name}/documents", files=parts)
        assert answer.status_code == 202, answer.text
        with client.stream("GET", f"/kb/{name}/jobs/events") as events:  # ends when nothing is left to do
            for _ in events.iter_lines():
                pass
    yield name
    with server.client() as client:
        client.delete(f"/kb/{name}")


def ask(page: Any, question: str, way: str = "Ask") -> Any:
    """-> the newest answer, when it is done."""
    page.get_by_role("group", name="What to do").get_by_role("button", name=way).click()
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")
    page.locator(".asked[aria-busy=false]", has_text=question).first.wait_for(timeout=WAIT)
    return page.locator(".asked").first


def test_a_newcomer_makes_a_collection_asks_it_and_sees_the_passage(
    server: Server, look: Look, files: Path, shared: Path
) -> None:
    seen = look("/knowledge")
    page = seen.page
    page.get_by_role("textbox", name="Name of the new collection").fill("Newcomer's papers")
    seen.shot("knowledge-empty")
    page.get_by_role("button", name="Make a collection").click()
    page.get_by_role("heading", name="Newcomer's papers").wait_for()
    pdf = shared / "docs" / "markitdown" / "REPAIR-2022-INV-001_multipage.pdf"
    old = shared / "docs" / "unstructured" / "simple.doc"
    chosen = [pdf, shared / "docs" / "unstructured" / "simple.docx", files / "灯塔.txt", files / "orchard.md", old]
    page.locator("input[data-role=files]").set_input_files(chosen)
    page.get_by_text("old Word format is not supported").wait_for()  # the one that cannot be read, by name
    assert "simple.doc" in page.get_by_label("On their way").inner_text()
    page.get_by_text(re.compile(r"4 documents · [1-9]\d* passages")).wait_for(timeout=WAIT)
    seen.shot("knowledge-ready")

    answer = ask(page, "How many pear trees does the orchard have?")
    assert "340" in answer.locator(".cited-text").inner_text()
    chip = answer.locator(".cited-text button.chip").first
    chip.hover()
    quote = page.locator(".quote-text").inner_text()
    seen.shot("knowledge-hover")
    chip.click()
    page.locator(".source-text mark").first.wait_for()
    marked = "".join(page.locator(".source-text mark").all_text_contents())
    assert "340 pear trees" in marked and " ".join(marked.split()) == " ".join(quote.split())
    assert "Pears are kept" in page.locator(".source-text").inner_text()  # its surroundings
    assert page.locator(".source-text mark").first.is_visible()
    seen.shot("knowledge-source")
    page.keyboard.press("Escape")
    assert page.locator(".pane").count() == 0
    assert chip.evaluate("button => button === document.activeElement")

    answer = ask(page, "灯塔的灯每天晚上几点点亮？")
    answer.locator(".cited-text button.chip").first.click()
    page.locator(".source-text mark").first.wait_for()
    assert "七点" in "".join(page.locator(".source-text mark").all_text_contents())

    page.reload()
    page.get_by_role("button", name="More about this collection").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_text("There is no collection").or_(page.get_by_label("Collections")).first.wait_for()
    assert "newcomer-s-papers" not in server.get("/kb").text


def test_the_marked_text_is_the_quote_on_the_page_that_the_citation_names(
    server: Server, look: Look, collection: str
) -> None:
    """Through a PDF, by search: every hit is opened with next, and compared with what the server says it is."""
    found = server.post(f"/kb/{collection}/search", {"query": "vehicle repair invoice labor", "k": 10}).json()["hits"]
    seen = look(f"/knowledge/{collection}")
    page = seen.page
    answer = ask(page, "vehicle repair invoice labor", "Search")
    seen.shot("knowledge-search")
    assert answer.locator(".hits mark").count() > 0
    answer.locator(".hits button").first.click()
    for at, hit in enumerate(found):
        page.get_by_text(f"{at + 1} of {len(found)}", exact=True).wait_for()
        page.wait_for_function(
            "text => [...document.querySelectorAll('.source-text mark')].map((one) => one.textContent).join('') === text",
            arg=hit["text"],
        )
        if hit["page"]:
            assert f"p. {hit['page']}" in page.locator(".source-head").inner_text()
        page.get_by_role("button", name="Next source").click()


def test_what_the_documents_do_not_answer_is_a_state_of_its_own(server: Server, look: Look, collection: str) -> None:
    seen = look(f"/knowledge/{collection}", theme="dark")
    page = seen.page
    answer = ask(page, "Which composer wrote the opera Turandot?")
    told = answer.locator(".abstained").inner_text()
    assert "The documents do not answer this." in told and re.search(r"Searched were \d+ passages of 4 documents", told)
    answer.get_by_text("The passages that came nearest").click()
    assert answer.locator(".hits li").count() > 0
    seen.shot("knowledge-abstained-dark")


def test_a_sentence_without_support_is_dotted_and_says_so(server: Server, look: Look, collection: str) -> None:
    """The answer is the server's form, with one sentence that nothing supports; what the page makes of it is tested."""
    seen = look(f"/knowledge/{collection}")
    page = seen.page
    document = {"id": "a", "name": "orchard.md", "folder": "", "title": ""}
    searched = {"documents": 4, "passages": 9, "hits": 1}
    citation = {"n": 1, "document": document, "page": 3, "section": "S", "start": 0, "end": 4, "quote": "pear"}
    sentences = [
        {"text": "There are pears.", "citations": [1], "support": 0.9, "quoted": False},
        {"text": f"And {HOSTILE}.", "citations": [], "support": 0.1, "quoted": False},
    ]
    withheld = [{"text": "Kept back.", "citations": [], "support": 0, "quoted": False}]
    answer = {
        "question": "q", "answer": "There are pears. [1]", "sentences": sentences, "withheld": withheld,
        "citations": [citation], "abstained": False, "searched": searched, "model": MODEL, "usage": None, "timings": {"total": 0.01},
    }  # fmt: skip
    stream = f"event: retrieval\ndata: {json.dumps({'hits': [], 'searched': searched, 'answers': True})}\n\n"
    stream += f"event: answer\ndata: {json.dumps(answer)}\n\n"
    page.route("**/ask", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
    shown = ask(page, "Are there pears?")
    bare = shown.locator(".cited-text .unsupported")
    assert bare.evaluate("node => getComputedStyle(node).textDecorationStyle") == "dotted"
    assert "no passage in the documents supports this sentence" in bare.text_content()
    assert HOSTILE in bare.text_content() and bare.locator("img, script, strong").count() == 0
    assert shown.get_by_text("1 sentence was kept back").count() == 1
    assert page.title() != "owned"
    seen.shot("knowledge-unsupported")


def test_neither_a_document_nor_a_file_name_becomes_markup(server: Server, look: Look, collection: str) -> None:
    seen = look(f"/knowledge/{collection}")
    page = seen.page
    page.get_by_text(EVIL_NAME).first.wait_for()
    answer = ask(page, "zebra protocol readers", "Search")
    answer.locator(".hits button", has_text=EVIL_NAME).click()
    page.locator(".source-text mark").first.wait_for()
    assert HOSTILE in page.locator(".source-text").inner_text()
    assert page.locator("main img, .pane img, main script").count() == 0
    assert page.title() != "owned"
    page.get_by_role("button", name=f"Remove {EVIL_NAME}").click()
    assert EVIL_NAME in page.get_by_role("dialog").inner_text() and page.locator("dialog img").count() == 0


def test_a_failed_question_keeps_the_persons_text(server: Server, look: Look, collection: str) -> None:
    seen = look(f"/knowledge/{collection}")
    page = seen.page
    page.route(
        "**/ask", lambda route: route.fulfill(status=500, json={"error": {"message": "no luck", "remedy": "later"}})
    )
    answer = ask(page, "Will this be kept?")
    assert "no luck" in answer.inner_text() and "later" in answer.inner_text()
    assert page.locator("#question").input_value() == "Will this be kept?"
    page.reload()
    assert page.locator("#question").input_value() == "Will this be kept?"


def test_a_question_to_what_is_not_read_yet_waits_in_its_field(server: Server, look: Look) -> None:
    name = server.post("/kb", {"title": "Nothing here"}).json()["name"]
    seen = look(f"/knowledge/{name}")
    page = seen.page
    page.locator("#question").fill("Is it there?")
    page.keyboard.press("Enter")
    page.locator("#voice", has_text="There is nothing to ask yet").wait_for(state="attached")
    assert page.locator(".asked").count() == 0  # not the answer that the documents do not have it
    assert page.locator("#question").input_value() == "Is it there?"
    with server.client() as client:
        client.delete(f"/kb/{name}")


def test_a_folder_that_is_dropped_keeps_its_paths(server: Server, look: Look) -> None:
    seen = look("/knowledge")
    page = seen.page
    page.get_by_role("textbox", name="Name of the new collection").wait_for()
    page.evaluate("""() => {
        const file = (name, text) => ({ isFile: true, name, file: (done) => done(new File([text], name)) });
        const folder = (name, inner) => ({ isFile: false, isDirectory: true, name, createReader: () => {
            const parts = [inner, []];
            return { readEntries: (done) => done(parts.shift() ?? []) };
        } });
        const root = folder("field notes", [file("a.md", "# Heron\\n\\nThe heron nests in May."), folder("deep", [file("b.txt", "Owls hunt by night.")])]);
        const event = new Event("drop", { bubbles: true, cancelable: true });
        event.dataTransfer = { types: ["Files"], items: [{ kind: "file", webkitGetAsEntry: () => root }] };
        document.querySelector(".drop").dispatchEvent(event);
    }""")
    page.get_by_text(re.compile(r"2 documents · [1-9]")).wait_for()
    page.get_by_role("heading", name="field notes").wait_for()
    assert "field notes/deep/b.txt" in page.get_by_label("Documents", exact=True).first.inner_text()
    name = page.url.rpartition("/")[2]
    page.get_by_role("button", name="Remove b.txt").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_text(re.compile(r"1 document · [1-9]")).wait_for()
    with server.client() as client:
        client.delete(f"/kb/{name}")


def test_models_say_what_they_are_and_need_and_one_of_ones_own_is_made(server: Server, look: Look) -> None:
    server.post("/api/hornbook/models/unload", {"name": MODEL})
    seen = look("/models")
    page = seen.page
    row = page.locator("li.model", has_text=MODEL).first
    row.get_by_text(re.compile(r"needs \d+ MB with 4,096 tokens")).wait_for()
    assert (
        row.get_by_role("link", name="Apache-2.0").get_attribute("href")
        == "https://www.apache.org/licenses/LICENSE-2.0"
    )
    assert "135M parameters" in row.inner_text()
    seen.shot("models")

    page.get_by_role("button", name="Make your own").click()
    dialog = page.get_by_role("dialog")
    dialog.locator("textarea").fill("FROM smollm2:135m\n\nPARAMETER temprature 2\n")
    dialog.get_by_text("Line 3: there is no parameter temprature").wait_for()
    assert dialog.locator(".editor-lines .wrong").inner_text() == "3"
    seen.shot("models-fault")
    dialog.locator("textarea").fill("FROM smollm2:135m\nSYSTEM You answer in one word.\n")
    dialog.get_by_text("The Modelfile can be read.").wait_for()
    dialog.get_by_role("textbox", name="Name").fill("oneword")
    dialog.get_by_role("button", name="Make your own").click()
    made = page.locator("li.model", has_text="oneword")
    made.get_by_text("made from smollm2:135m").wait_for()

    made.get_by_role("button", name="Load oneword", exact=True).click()
    made.get_by_text("in memory").wait_for()
    assert {"oneword", MODEL} & {each["name"] for each in server.get("/api/ps").json()["models"]}
    made.get_by_role("button", name="Unload oneword").click()
    made.get_by_role("button", name="Load oneword", exact=True).wait_for()

    made.get_by_role("button", name="More about oneword").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    made.wait_for(state="detached")
    assert all(row["name"] != "oneword" for row in server.get("/api/hornbook/models").json()["models"])


def test_a_pull_that_fails_says_why_and_a_path_is_refused(server: Server, look: Look) -> None:
    seen = look("/models")
    page = seen.page
    source = page.get_by_role("textbox", name="Model to fetch")
    source.fill("/etc/passwd")
    page.keyboard.press("Enter")
    page.locator(".toast.error", has_text="cannot be pulled").wait_for()
    assert source.input_value() == "/etc/passwd"  # kept, to be mended
    page.get_by_role("button", name="Fetch gemma3:270m").click()
    page.get_by_role("alert").get_by_text("Hornbook is offline").wait_for()  # as this server is


def test_a_measurement_shows_its_figures_and_can_be_stopped(server: Server, look: Look) -> None:
    seen = look("/models")
    page = seen.page
    post = "() => fetch('/api/hornbook/jobs/bench', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(%s)})"
    page.get_by_role("button", name=f"More about {MODEL}").wait_for()
    page.evaluate(post % f"{{name: '{MODEL}', measures: ['decode_1', 'decode_4']}}")
    page.reload()  # the measurement goes on, and the page finds it again
    bench = page.locator(".bench")
    bench.get_by_text("Writing 4 answers at once").last.wait_for()
    bench.locator("canvas").wait_for(timeout=60_000)
    figures = bench.locator("td.figure").all_inner_texts()
    assert len(figures) == 2 and all(float(one.split()[0].replace(",", "")) > 1 for one in figures)
    seen.shot("models-bench")
    bench.get_by_role("button", name="Measure again").click()
    bench.get_by_role("button", name="Stop").click()
    bench.get_by_text("Stopped.").wait_for()


@pytest.mark.parametrize(
    ("language", "theme", "width"), [("en-GB", "light", 1280), ("zh-CN", "dark", 360), ("zh-CN", "light", 768)]
)
def test_every_view_is_accessible_fits_and_has_all_its_words(
    server: Server, look: Look, collection: str, language: str, theme: str, width: int
) -> None:
    seen = look("/knowledge", language=language, theme=theme, width=width, height=780)
    page = seen.page
    marks = f"{language[:2]}-{theme}-{width}"
    for path, ready in [
        ("/knowledge", ".shelf a"),
        (f"/knowledge/{collection}", ".document"),
        ("/models", ".model"),
    ]:
        page.evaluate("path => { location.hash = path; }", path)
        page.locator(ready).first.wait_for()
        if path.endswith(collection):
            page.locator("#question").fill("340 pear trees")
            page.locator(".asking button[type=submit]").click()
            page.locator(".asked[aria-busy=false] button.source-link").first.click()
            page.locator(".source-text mark").first.wait_for()
            seen.shot(f"source-{marks}")
            assert seen.serious() == []
            page.keyboard.press("Escape")
        page.wait_for_timeout(300)
        seen.shot(f"{path.strip('/').partition('/')[0]}{'-one' if 'e/' in path else ''}-{marks}")
        assert seen.serious() == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(
            "[...document.querySelectorAll('.page')].every((one) => one.scrollWidth <= one.clientWidth)"
        )
    assert page.evaluate("import('/js/i18n.js').then((module) => module.gaps())") == []


def test_the_apis_page_describes_every_operation_and_sends_one(server: Server, look: Look) -> None:
    seen = look("/")
    page = seen.page
    page.goto(f"{server.url}/docs")
    page.locator(".operation").first.wait_for()
    listed = {tuple(one.split()[:2]) for one in page.locator(".operation > summary").all_inner_texts()}
    paths = server.get("/openapi.json").json()["paths"]
    methods = {"get", "post", "put", "patch", "delete"}
    assert listed == {(method.upper(), path) for path, of in paths.items() for method in of if method in methods}
    page.get_by_role("searchbox", name="Filter").fill("/v1/embeddings")
    page.locator(".operation > summary").click()
    operation = page.locator(".operation")
    assert "input" in operation.locator("table").inner_text()
    operation.locator("textarea").fill('{"model": "minilm", "input": "a hornbook"}')
    operation.get_by_role("button", name="Send").click()
    operation.get_by_text("Status 200").wait_for()
    assert '"embedding"' in operation.locator(".answer").inner_text()
    seen.shot("docs")
    assert seen.serious() == []


def test_by_keyboard_alone_to_a_source_through_all_of_them_and_back(
    server: Server, look: Look, collection: str
) -> None:
    seen = look(f"/knowledge/{collection}")
    page = seen.page
    ask(page, "pear trees cellar lighthouse", "Search")
    page.locator("#question").focus()
    for _ in range(12):  # a few controls, and then the first hit
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.hits') !== null"):
            break
    page.keyboard.press("Enter")
    page.locator(".source-text mark").first.wait_for()
    assert page.evaluate("document.activeElement.closest('.pane') !== null")
    count = page.locator(".hits li").count()
    page.keyboard.press("Alt+ArrowRight")
    page.get_by_text(f"2 of {count}", exact=True).wait_for()
    page.keyboard.press("Alt+ArrowLeft")
    page.get_by_text(f"1 of {count}", exact=True).wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.closest('.hits li') === document.querySelector('.hits li')")
    page.locator("#question").focus()
    page.keyboard.press("ArrowUp")
    assert page.locator("#question").input_value() == "pear trees cellar lighthouse"  # the last question, to be mended


def test_escape_stops_an_answer_and_keeps_the_question(server: Server, look: Look, collection: str) -> None:
    seen = look(f"/knowledge/{collection}")
    page = seen.page
    page.route("**/ask", lambda route: None)  # an answer that does not come
    page.locator("#question").fill("How many pear trees?")
    page.keyboard.press("Enter")
    page.locator(".asked[aria-busy=true]").wait_for()
    page.keyboard.press("Escape")
    page.locator(".asked", has_text="Stopped.").wait_for()
    assert page.locator("#question").input_value() == "How many pear trees?"


def test_an_address_inside_is_refused_by_name_and_everything_is_read_again_when_asked(
    server: Server, look: Look, collection: str
) -> None:
    seen = look(f"/knowledge/{collection}")
    page = seen.page
    page.get_by_role("button", name="Add a web address").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("http://127.0.0.1:1/secret")
    page.get_by_role("button", name="Fetch it").click()
    row = page.get_by_label("On their way").locator("li", has_text="http://127.0.0.1:1/secret")
    row.locator(".red").wait_for()
    assert len(row.locator(".red").inner_text()) > 10
    row.get_by_role("button", name="Dismiss http://127.0.0.1:1/secret").click()
    assert row.count() == 0

    page.get_by_role("button", name="More about this collection").click()
    page.get_by_role("menuitem", name="Read everything again").click()
    with page.expect_response(lambda answer: answer.url.endswith("/jobs/events")):
        page.get_by_role("dialog").get_by_role("button", name="Read everything again").click()
    page.locator("#voice", has_text="The documents are ready.").wait_for(state="attached", timeout=WAIT)
    assert server.get(f"/kb/{collection}").json()["documents"] == 4


def test_a_shelf_leads_to_a_chat_with_what_lies_on_it(server: Server, look: Look, collection: str) -> None:
    seen = look(f"/knowledge/{collection}")
    page = seen.page
    page.get_by_role("button", name="More about this collection").click()
    page.get_by_role("menuitem", name="Chat with it").click()
    page.locator("#composer").wait_for()
    assert "Shelf of tests" in page.locator("main").inner_text()
