"""What all tests share: the real data beside the project, the real models, and a home folder of their own.

Models are pulled once into the person's own store (HORNBOOK_HOME or the default) by the code under test; a test that
writes gets a fresh home. Where the shared data or the network is absent, a test skips and says so; on CI a model that
cannot be pulled is a failure, because a green run that tested nothing would be a lie.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from real_browser import chromium  # noqa: F401  (a fixture)

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the command does: see hornbook.cli._share_the_processors
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other processor is another worker's
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no reference library may reach out
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # The suite was started in the background of a script; programs that the tests interrupt must not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real, licensed data beside the project."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder (../shared/data) is not here")
    return SHARED


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HORNBOOK_HOME of this test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("HORNBOOK_HOME", str(folder))
    return folder


def _model(name: str) -> Path:
    from hornbook.checkpoint.store import Store
    from hornbook.errors import DownloadError, OfflineError
    from hornbook.settings import Settings

    try:
        return Store(Settings.load()).ensure(name).path
    except (DownloadError, OfflineError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name} is not in the store and could not be pulled: {error.what}")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, one GGUF file."""
    return _model("smollm2:135m")


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """Gemma 3 270M (base), Q4_K_M, one GGUF file."""
    return _model("gemma3:270m")


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2: a folder with config.json, tokenizer.json and model.safetensors."""
    return _model("minilm")


TINY_TEMPLATE = """\
{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="session")
def tiny_llm_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers with random weights, a byte-level BPE and a chat template; its context is 256 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=specials, initial_alphabet=alphabet)
    backend.train_from_iterator([(Path(__file__).parents[1] / "LICENSE").read_text("utf-8")], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=TINY_TEMPLATE
    )
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.6, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-llm")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
