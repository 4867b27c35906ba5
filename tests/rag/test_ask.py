"""``ask`` with a scripted model: what is cited, withheld, marked, quoted, refused; exact, and without weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import hornbook
from hornbook.errors import ContextTooLong, HornbookError, UsageError
from hornbook.llm import ScriptedLLM
from hornbook.rag.ask import abstain, conclude, find
from hornbook.rag.prompt import REPLY_TOKENS
from hornbook.retrieve.index import Index
from hornbook.retrieve.parse import parse
from hornbook.types import Answer, SamplingParams

LIMITED = "The second experiment was limited by activation memory, not by the weights."
QUESTION = "What limited the second experiment?"
Opened = Callable[[], Index]


def ask(folder: Path, index: Index, question: str, says: str, **options: object) -> tuple[Answer, ScriptedLLM]:
    llm = ScriptedLLM(says)
    return hornbook.ask(folder, question, model=llm, index=index, **options), llm  # type: ignore[arg-type]


def test_a_supported_sentence_is_cited_with_its_exact_span(folder: Path, index_of: Opened) -> None:
    answer, _ = ask(folder, index_of(), QUESTION, LIMITED)
    assert answer.text == f"{LIMITED} [1]"
    (citation,) = answer.citations
    assert (citation.n, citation.quote, Path(citation.path).name) == (1, LIMITED, "training.md")
    assert citation.section.endswith("Results")
    assert parse(folder / "training.md").text[citation.start : citation.end] == citation.quote
    assert not answer.abstained and not answer.sentences[0].quoted and answer.sentences[0].support > 0.9


def test_a_list_s_dash_is_not_part_of_the_answer(folder: Path, index_of: Opened) -> None:
    assert ask(folder, index_of(), QUESTION, f"- {LIMITED}")[0].text == f"{LIMITED} [1]"


def test_strict_withholds_what_no_span_supports(folder: Path, index_of: Opened) -> None:
    invented = "The experiment was run on nine hundred cards in Geneva."
    answer, _ = ask(folder, index_of(), QUESTION, f"{LIMITED} {invented}")
    assert answer.text == f"{LIMITED} [1]"
    assert [sentence.text for sentence in answer.withheld] == [invented]


def test_not_strict_shows_it_and_says_so(folder: Path, index_of: Opened) -> None:
    invented = "The experiment was run on nine hundred cards in Geneva."
    answer, _ = ask(folder, index_of(), QUESTION, f"{LIMITED} {invented}", strict=False)
    assert answer.text == f"{LIMITED} [1] {invented} (not in the documents)"
    assert not answer.withheld and answer.sentences[1].citations == ()


def test_citations_are_numbered_by_first_use_and_shared(folder: Path, index_of: Opened) -> None:
    halving = "Halving the sequence length to 512 tokens allowed the batch to be doubled."
    says = f"{halving} {LIMITED} The document states that halving the sequence length allowed the batch to be doubled."
    answer, _ = ask(folder, index_of(), "What limited the second experiment, and what did halving allow?", says)
    assert re.findall(r"\[(\d)\]", answer.text) == ["1", "2", "1"]
    assert [citation.n for citation in answer.citations] == [1, 2]
    assert answer.citations[0].quote == halving


def test_the_evidence_is_quoted_where_the_model_says_nothing_of_it(folder: Path, index_of: Opened) -> None:
    answer, _ = ask(folder, index_of(), QUESTION, "I am a helpful assistant and love pizza.")
    (sentence,) = answer.sentences
    assert sentence.quoted and sentence.citations == (1,)
    assert answer.text.startswith("The documents say: “The second experiment was limited")
    assert len(answer.withheld) == 1
    text = parse(folder / "training.md").text
    assert text[answer.citations[0].start : answer.citations[0].end] == answer.citations[0].quote


def test_what_is_true_but_beside_the_question_does_not_stand_alone(folder: Path, index_of: Opened) -> None:
    answer, _ = ask(folder, index_of(), QUESTION, "The learning rate was 0.001 in all runs.")
    assert [sentence.quoted for sentence in answer.sentences] == [False, True]
    assert LIMITED in answer.sentences[1].text


def test_it_abstains_without_asking_the_model(folder: Path, index_of: Opened) -> None:
    answer, llm = ask(folder, index_of(), "Who won the football cup in Brazil?", "Germany won.")
    assert answer.text == "The documents do not answer this."
    assert answer.abstained and not answer.citations and not answer.sentences and not llm.asked


def test_it_abstains_in_the_language_of_the_question(folder: Path, index_of: Opened) -> None:
    answer, llm = ask(folder, index_of(), "光合作用的化学方程式是什么？", "不知道。")
    assert answer.text == "文档没有回答这个问题。"
    assert answer.abstained and not llm.asked


def test_chinese_is_cited_and_quoted(folder: Path, index_of: Opened) -> None:
    index = index_of()
    answer, llm = ask(folder, index, "大熊猫以什么为食？", "大熊猫主要以竹子为食。")
    assert answer.text == "大熊猫主要以竹子为食。 [1]"
    assert "竹子" in answer.citations[0].quote and "问题：" in llm.asked[0].prompt
    answer, _ = ask(folder, index, "大熊猫以什么为食？", "大熊猫主要以鱼为食，每天进食二十小时。")
    assert answer.sentences[0].quoted and answer.text.startswith("文档中写道：“大熊猫主要以竹子为食")
    text = parse(folder / "panda.txt").text
    assert all(text[c.start : c.end] == c.quote for c in answer.citations)


@pytest.mark.parametrize("strict", [True, False])
def test_what_is_streamed_is_the_answer(folder: Path, index_of: Opened, strict: bool) -> None:
    pieces: list[str] = []
    says = f"Pizza is good. {LIMITED} It was doubled in Rome."
    answer, _ = ask(folder, index_of(), QUESTION, says, strict=strict, stream=pieces.append)
    assert "".join(pieces) == answer.text


def test_a_model_that_repeats_itself_is_stopped(folder: Path, index_of: Opened) -> None:
    answer, _ = ask(folder, index_of(), QUESTION, " ".join([LIMITED] * 6))
    assert answer.text == f"{LIMITED} [1]"


def test_a_sentence_cut_off_by_the_limit_is_not_cited(folder: Path, index_of: Opened) -> None:
    words = "The second experiment was limited by activation memory and " + "by more memory and " * 40
    answer, _ = ask(folder, index_of(), QUESTION, words)
    assert answer.usage is not None and answer.usage.completion_tokens == REPLY_TOKENS
    assert all(sentence.quoted for sentence in answer.sentences)


def test_a_changed_file_is_read_again_and_a_deleted_one_forgotten(folder: Path, index_of: Opened) -> None:
    index = index_of()
    ask(folder, index, QUESTION, LIMITED)
    (folder / "training.md").write_text("The second experiment was limited by the disk and by nothing else.", "utf-8")
    answer, _ = ask(folder, index, QUESTION, "The second experiment was limited by the disk.")
    assert answer.citations[0].quote.endswith("nothing else.")
    (folder / "training.md").unlink()
    assert ask(folder, index, QUESTION, LIMITED)[0].abstained


def test_the_json_form_and_the_timings(folder: Path, index_of: Opened) -> None:
    answer, _ = ask(folder, index_of(), QUESTION, LIMITED)
    data = json.loads(json.dumps(answer.to_json()))
    assert data["sentences"] == [{"text": LIMITED, "citations": [1], "quoted": False}]
    assert set(data["citations"][0]) == {"n", "path", "page", "section", "start", "end", "quote"}
    assert {"ingest", "retrieve", "generate", "attribute", "first_token", "total"} <= set(data["timings"])
    assert data["abstained"] is False


# ------------------------------------------------------------------------------------------------------ the context


def test_the_prompt_keeps_room_for_the_reply_and_names_what_is_left_out(folder: Path, index_of: Opened) -> None:
    for number in range(6):
        (folder / f"run{number}.txt").write_text(
            f"Run {number} of the second experiment was limited by activation memory on card {number}. " * 3, "utf-8"
        )
    llm = ScriptedLLM(LIMITED, context_length=210)
    answer = hornbook.ask(folder, QUESTION, model=llm, index=index_of(), k=6)
    asked = llm.asked[0].prompt
    assert llm.count_tokens(asked) + REPLY_TOKENS <= 210
    assert answer.prompt == asked
    assert answer.left_out
    for hit in answer.hits:
        assert hit in answer.left_out or any(line in asked for line in hit.chunk.text.split(". "))


def test_a_question_that_does_not_fit_is_an_error_with_its_numbers(folder: Path, index_of: Opened) -> None:
    llm = ScriptedLLM(LIMITED, context_length=200)
    with pytest.raises(ContextTooLong, match=r"scripted has 200, of which 96"):
        hornbook.ask(folder, QUESTION + " And why?" * 400, model=llm, index=index_of())


# --------------------------------------------------------------------------------------------------------- bad input


def test_wrong_use_is_said_before_any_work(folder: Path, index_of: Opened) -> None:
    llm = ScriptedLLM("x")
    with pytest.raises(UsageError, match="the question is empty"):
        hornbook.ask(folder, " \n", model=llm, index=index_of())
    with pytest.raises(UsageError, match="k must be at least 1"):
        hornbook.ask(folder, QUESTION, model=llm, k=0, index=index_of())
    with pytest.raises(UsageError, match="nowhere does not exist"):
        hornbook.ask(folder / "nowhere", QUESTION, model=llm, index=index_of())
    with pytest.raises(UsageError, match="no path was given"):
        hornbook.ask([], QUESTION, model=llm)
    with pytest.raises(UsageError):
        hornbook.ask(folder, QUESTION, model="no-such-model-anywhere", index=index_of())


def test_an_empty_folder_and_one_with_nothing_readable(tmp_path: Path, index_of: Opened) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(HornbookError, match="there is no document in"):
        hornbook.ask(empty, QUESTION, model=ScriptedLLM("x"), index=index_of())
    with pytest.raises(HornbookError, match="is empty"):
        hornbook.ask([], QUESTION, model=ScriptedLLM("x"), index=index_of())
    (empty / "broken.pdf").write_bytes(b"%PDF-1.4 nothing more")
    with pytest.raises(HornbookError, match=r"1 file failed, the first broken\.pdf"):
        hornbook.ask(empty, QUESTION, model=ScriptedLLM("x"), index=index_of())


def test_an_embedding_model_cannot_answer(folder: Path, index_of: Opened, minilm_path: Path) -> None:
    with pytest.raises(UsageError, match="is an embedding model"):
        hornbook.ask(folder, QUESTION, model=str(minilm_path), index=index_of())


# --------------------------------------------------------------------------------------------------------------- stages


def test_asked_in_stages_the_answer_is_the_same_and_the_drafts_are_what_the_model_wrote(
    folder: Path, index_of: Opened
) -> None:
    index = index_of()
    whole, _ = ask(folder, index, QUESTION, f"{LIMITED} The moon is made of cheese.")
    found = find(index, QUESTION)
    said: list[str] = []
    drafts: list[str] = []
    llm = ScriptedLLM(f"{LIMITED} The moon is made of cheese.")
    answer = conclude(found, llm, index, stream=said.append, draft=drafts.append)
    assert found.evidence.answers and found.hits == whole.hits
    assert (answer.text, answer.citations, answer.withheld) == (whole.text, whole.citations, whole.withheld)
    assert "".join(said) == answer.text and "cheese" in "".join(drafts) and "cheese" not in answer.text


def test_what_a_listener_raises_ends_the_work(folder: Path, index_of: Opened) -> None:
    index = index_of()
    ask(folder, index, QUESTION, LIMITED)

    def enough(piece: str) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        conclude(find(index, QUESTION), ScriptedLLM(LIMITED), index, draft=enough)


def test_the_caller_chooses_how_the_model_writes_but_not_how_long(folder: Path, index_of: Opened) -> None:
    index = index_of()
    ask(folder, index, QUESTION, LIMITED)
    llm = ScriptedLLM(LIMITED)
    conclude(
        find(index, QUESTION), llm, index, sampling=SamplingParams(max_tokens=5_000, temperature=0.5, stop=("END",))
    )
    sampling = llm.asked[-1].sampling
    assert (sampling.max_tokens, sampling.temperature) == (REPLY_TOKENS, 0.5) and "END" in sampling.stop


def test_nothing_found_is_said_without_a_model(folder: Path, index_of: Opened) -> None:
    index = index_of()
    ask(folder, index, QUESTION, LIMITED)
    found = find(index, "Who won the football championship in 1998?")
    answer = abstain(found)
    assert not found.evidence.answers and answer.abstained and answer.hits == found.hits
    with pytest.raises(UsageError, match="empty"):
        find(index, " ")
