"""What every LLM keeps to, whatever runs underneath. A new kind of LLM joins by one more fixture parameter."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import hornbook
from hornbook.errors import ContextTooLong, ModelClosed, UsageError
from hornbook.llm import LocalLLM
from hornbook.settings import Settings
from hornbook.types import LLM, Completion, Message, SamplingParams, Score, Token
from openai_server import Behind, serving

SHORT = SamplingParams(max_tokens=12)
REPLY = "One two three, four five six seven eight nine ten eleven twelve thirteen fourteen."


def scripted(_: Path) -> Any:
    return hornbook.ScriptedLLM(lambda prompt: REPLY, context_length=256)


def local(folder: Path) -> Any:
    return hornbook.load(str(folder), device="cpu")


class Served(hornbook.RemoteLLM):
    """A RemoteLLM together with its server, behind which the local model stands."""

    def __init__(self, folder: Path) -> None:
        with ExitStack() as stack:
            behind = stack.enter_context(local(folder))
            server = stack.enter_context(serving(Behind(behind)))
            super().__init__(server.url, extra={"return_token_ids": True}, settings=Settings(offline=True))
            self._server = stack.pop_all()

    def close(self) -> None:
        super().close()
        self._server.close()


KINDS = [scripted, local, Served]
IDS = ["scripted", "local", "remote"]


@pytest.fixture(scope="module", params=KINDS, ids=IDS)
def llm(request: pytest.FixtureRequest, tiny_llm_path: Path) -> Iterator[Any]:
    made = request.param(tiny_llm_path)
    yield made
    made.close()


def test_it_is_an_llm(llm: Any) -> None:
    assert isinstance(llm, LLM)
    assert llm.name
    assert llm.context_length == 256


def test_generate_gives_a_completion_a_prompt_in_order(llm: Any) -> None:
    one = llm.generate("Hello there", SHORT)
    assert len(one) == 1
    assert llm.generate([], SHORT) == []
    three = llm.generate(["Hello there", "A much longer prompt, of another length", "x"], SHORT)
    assert len(three) == 3
    assert three[0].text == one[0].text
    for completion in three:
        assert isinstance(completion, Completion)
        assert 1 <= len(completion.token_ids) <= 12
        assert completion.usage.completion_tokens == len(completion.token_ids)
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.token_ids)
        assert all(value <= 1e-6 and math.isfinite(value) for value in completion.logprobs)
        assert completion.finish_reason in ("stop", "length")


def test_the_default_is_greedy_and_repeats(llm: Any) -> None:
    assert llm.generate("Hello there", SHORT) == llm.generate("Hello there", SHORT)


def test_ids_are_a_prompt_too_alone_and_in_a_list(llm: Any) -> None:
    text = llm.generate("Hello there", SHORT)[0]
    ids = list(text.token_ids)
    alone = llm.generate(ids, SHORT)
    assert len(alone) == 1
    for completion in llm.generate([ids, ids], SHORT):
        assert completion.token_ids == alone[0].token_ids
        assert completion.logprobs == pytest.approx(alone[0].logprobs, abs=1e-5)
    assert alone[0].usage.prompt_tokens == len(ids)
    assert [c.usage.prompt_tokens for c in llm.generate(["Hello there", ids], SHORT)] == [
        text.usage.prompt_tokens,
        len(ids),
    ]


@pytest.mark.parametrize("prompt", [b"bytes", 7, None, [1.5], {"a": 1}, [None]])
def test_what_is_no_prompt_is_named(llm: Any, prompt: Any) -> None:
    with pytest.raises(UsageError, match="prompt"):
        llm.generate(prompt, SHORT)


@pytest.mark.parametrize("prompt", [[10**9], [-1]])
def test_ids_outside_the_vocabulary_are_named(llm: Any, prompt: Any) -> None:
    with pytest.raises(UsageError, match=str(prompt[0])):
        llm.generate(prompt, SHORT)


def test_a_stream_is_the_completion_piece_by_piece(llm: Any) -> None:
    whole = llm.generate("Hello there", SHORT)[0]
    tokens = list(llm.stream("Hello there", SHORT))
    assert all(isinstance(token, Token) for token in tokens)
    assert "".join(token.text for token in tokens) == whole.text
    assert tuple(token.id for token in tokens if token.id is not None) == whole.token_ids
    assert tokens[-1].finish_reason == whole.finish_reason
    assert all(token.finish_reason is None for token in tokens[:-1])


def test_a_stop_string_is_left_out_and_ends_with_stop(llm: Any) -> None:
    free = llm.generate("Hello there", SHORT)[0].text
    for begin in range(1, len(free) - 3):
        stop = free[begin : begin + 3]
        stopped = llm.generate("Hello there", SamplingParams(max_tokens=12, stop=(stop,)))[0]
        assert stopped.text == free[: free.index(stop)]
        assert stopped.finish_reason == "stop"


def test_a_limit_ends_with_length(llm: Any) -> None:
    completion = llm.generate("Hello there", SamplingParams(max_tokens=3, ignore_eos=True))[0]
    assert len(completion.token_ids) == 3
    assert completion.finish_reason == "length"


def test_logprobs_are_left_out_when_nobody_wants_them(llm: Any) -> None:
    assert llm.generate("Hello", SamplingParams(max_tokens=2, logprobs=False))[0].logprobs is None


def test_a_prompt_beyond_the_context_is_refused_at_once(llm: Any) -> None:
    long = "word " * 400
    for ask in (llm.generate, llm.stream, lambda text: llm.chat([Message("user", text)])):
        with pytest.raises(ContextTooLong, match="256"):
            ask(long)


def test_chat_answers_messages_and_dicts_alike(llm: Any) -> None:
    turns = [Message("system", "Be brief."), Message("user", "Hi")]
    answer = llm.chat(turns, sampling=SHORT)
    assert answer.role == "assistant"
    assert answer == llm.chat([{"role": m.role, "content": m.content} for m in turns], sampling=SHORT)
    assert answer.content == "".join(token.text for token in llm.stream_chat(turns, sampling=SHORT))
    assert answer.content == llm.generate(llm.render(turns), SHORT)[0].text


@pytest.mark.parametrize(
    ("messages", "error"),
    [([], UsageError), ([{"role": "wizard", "content": ""}], ValueError), ([{"rôle": 1}], ValueError)],
)
def test_bad_messages_are_named(llm: Any, messages: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        llm.chat(messages)


def test_scores_are_one_a_pair_and_counted(llm: Any) -> None:
    scores = llm.score([("Hello", " there"), ("Hello", " there, you and you and you"), ("Hello", "")])
    assert all(isinstance(score, Score) for score in scores)
    assert scores[1].tokens > scores[0].tokens > 0
    assert scores[1].logprob < scores[0].logprob < 0
    assert scores[2] == Score(0.0, True, 0)
    assert llm.score([]) == []


def test_a_context_may_be_ids(llm: Any) -> None:
    ids = list(llm.generate("Hello there", SHORT)[0].token_ids)
    alone, longer, nothing = llm.score([(ids, " there"), (ids, " there, you and you"), (ids, "")])
    assert longer.tokens > alone.tokens > 0
    assert longer.logprob < alone.logprob < 0
    assert nothing == Score(0.0, True, 0)
    assert llm.score([(tuple(ids), " there")])[0].logprob == pytest.approx(alone.logprob, abs=1e-5)
    with pytest.raises(UsageError, match="1000000000"):
        llm.score([([10**9], " there")])


def test_ids_are_judged_as_the_text_they_come_from(llm: Any) -> None:
    if isinstance(llm, LocalLLM):
        ids = llm.tokenizer.encode("Hello")
        assert llm.score([(ids, " there, you")]) == llm.score([("Hello", " there, you")])
        turn = llm.render([Message("user", "Hi")])
        said = llm.generate(turn, SamplingParams(max_tokens=1, ignore_eos=True))[0]
        if llm.tokenizer.encode(said.text) == list(said.token_ids):
            assert llm.score([(turn, said.text)])[0].logprob == pytest.approx(said.logprobs[0], abs=1e-5)


def test_whole_texts_are_judged_however_long(llm: Any) -> None:
    texts = ["Hello there", "", "a word of it " * 120]
    try:
        short, empty, long = llm.score_text(texts)
    except UsageError as error:  # a server that begins no text with a token of its own
        assert isinstance(llm, hornbook.RemoteLLM) and "first token" in str(error)
        return
    assert empty == Score(0.0, True, 0)
    assert [short.tokens, long.tokens] == [llm.count_tokens(text) for text in (texts[0], texts[2])]
    assert long.tokens > 256 and long.logprob < short.logprob < 0
    assert llm.score_text([]) == []


def test_a_text_from_its_first_token_on_is_judged_or_refused_by_name(llm: Any) -> None:
    if isinstance(llm, hornbook.RemoteLLM):
        with pytest.raises(UsageError, match="first token"):
            llm.score([("", "Hello")])
    else:
        assert llm.score([("", "Hello")])[0].tokens > 0


def test_the_same_seed_draws_the_same_and_another_another(llm: Any) -> None:
    def drawn(seed: int) -> str:
        params = SamplingParams(max_tokens=24, temperature=1.5, seed=seed, ignore_eos=True)
        return str(llm.generate("Hello there", params)[0].text)

    assert drawn(3) == drawn(3)
    if not isinstance(llm, hornbook.ScriptedLLM):
        assert len({drawn(seed) for seed in range(4)}) > 1


def test_text_of_any_script_goes_in_and_comes_out_whole(llm: Any) -> None:
    for text in ("床前明月光，疑是地上霜。", "Ünïcödé 🦉 naïve", "مرحبا"):
        assert llm.count_tokens(text) > 0
        params = SamplingParams(max_tokens=40, ignore_eos=True)
        whole = llm.generate(text, params)[0].text
        assert "".join(token.text for token in llm.stream(text, params)) == whole
        assert llm.chat([Message("user", text)], sampling=params).role == "assistant"


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -1}, {"stop": ("",)}, {"top_p": 0}])
def test_what_cannot_be_sampled_is_refused_before_any_work(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(TypeError, match="temprature"):
        SamplingParams(temprature=1)  # type: ignore[call-arg]


def test_tokens_are_counted(llm: Any) -> None:
    assert llm.count_tokens("") == 0
    assert 0 < llm.count_tokens("one two") < llm.count_tokens("one two three four five")


def test_many_threads_get_what_one_gets(llm: Any) -> None:
    prompts = [f"{'word ' * n}and" for n in range(6)]
    alone = [llm.generate(prompt, SHORT)[0].text for prompt in prompts]
    together: dict[int, str] = {}

    def work(i: int) -> None:
        together[i] = "".join(token.text for token in llm.stream(prompts[i], SHORT))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [together[i] for i in range(6)] == alone


def test_streams_may_be_interleaved_and_abandoned(llm: Any) -> None:
    first, second = llm.stream("Hello there", SHORT), llm.stream("Hello there", SHORT)
    abandoned = llm.stream("Something else", SHORT)
    next(abandoned)
    one, two = [], []
    for a, b in zip(first, second, strict=True):
        one.append((a.id, a.text, a.finish_reason))
        two.append((b.id, b.text, b.finish_reason))
    assert one == two
    abandoned.close()
    with pytest.raises(StopIteration):
        next(abandoned)


@pytest.mark.parametrize("make", KINDS, ids=IDS)
def test_after_close_every_use_is_a_named_error(make: Any, tiny_llm_path: Path) -> None:
    with make(tiny_llm_path) as llm:
        stream = llm.stream("Hello there", SHORT)
        next(stream)
    for use in (
        lambda: next(stream),
        lambda: llm.generate("Hello"),
        lambda: llm.stream("Hello"),
        lambda: llm.chat([Message("user", "Hello")]),
        lambda: llm.score([("Hello", "there")]),
    ):
        with pytest.raises(ModelClosed, match="closed"):
            use()
    llm.close()  # twice is no error


def test_several_answers_to_one_prompt_stand_together(llm: Any) -> None:
    params = SamplingParams(max_tokens=4, n=2, temperature=1.0, seed=3)
    answers = llm.generate(["One two", "three"], params)
    assert len(answers) == 4 and all(isinstance(answer, Completion) for answer in answers)
    assert len({answer.usage.prompt_tokens for answer in answers[:2]}) == 1
    for several in (
        lambda: llm.stream("One", params),
        lambda: llm.chat([Message("user", "One")], sampling=params),
    ):
        with pytest.raises(UsageError):
            several()


def test_what_is_told_one_by_one_is_what_is_told_together(llm: Any) -> None:
    if isinstance(llm, hornbook.ScriptedLLM):
        pytest.skip("a script is over at once")
    prompts, params = ["One two", "three", "one, two, three, four"], SamplingParams(max_tokens=6, n=2)
    by_place = dict(llm.generate_each(prompts, params))
    assert sorted(by_place) == [0, 1, 2]
    assert [one.text for place in range(3) for one in by_place[place]] == [
        one.text for one in llm.generate(prompts, params)
    ]
    pairs = [("The sky is", " blue"), ("The sky is", ""), ("One two", " three four"), ("The sky is", " green")]
    told = list(llm.score_each(pairs))
    assert sorted(place for place, _ in told) == [0, 1, 2, 3]
    assert [dict(told)[place] for place in range(4)] == llm.score(pairs)


def test_who_reads_no_further_leaves_the_rest_unasked(llm: Any) -> None:
    if isinstance(llm, hornbook.ScriptedLLM):
        pytest.skip("a script is over at once")
    each = llm.generate_each(["One two"] * 40, SamplingParams(max_tokens=40, ignore_eos=True))
    assert len(next(each)[1]) == 1
    each.close()
    assert llm.generate("One two", SHORT)[0].finish_reason
    with pytest.raises(ContextTooLong):
        dict(llm.generate_each(["One", "word " * 400]))


def test_texts_are_judged_one_by_one(tiny_llm_path: Path) -> None:
    texts = ["Hello there", "", "a word of it " * 120, "short"]
    with local(tiny_llm_path) as llm:
        told = list(llm.score_text_each(texts))
        assert sorted(place for place, _ in told) == [0, 1, 2, 3]
        assert [dict(told)[place] for place in range(4)] == llm.score_text(texts)
