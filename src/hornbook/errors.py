"""Errors are for people: one line that says what was wrong, with the numbers, and one that says what to do.

Every error that Hornbook raises on purpose is a HornbookError. The command line prints ``what`` and ``remedy`` on
stderr and ends with ``exit_code``; Python code catches the class.
"""

from __future__ import annotations


class HornbookError(Exception):
    """Something failed. ``what`` says what and how much, ``remedy`` what the person can do about it."""

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}\n{remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class UsageError(HornbookError):
    """The request itself is wrong (an unknown model, an empty question): nothing was tried."""

    exit_code = 2


class ModelNotFound(UsageError):
    """No model answers to that name, in the store, in the table of short names or on disk."""


class OfflineError(HornbookError):
    """The work needs the network and Hornbook was told to stay offline."""


class DownloadError(HornbookError):
    """A model could not be fetched, or what came does not have the expected SHA-256 or size."""


class StoreError(HornbookError):
    """The model store or the home folder cannot be read or written (permissions, a full disk)."""


class ModelFileError(HornbookError):
    """A model file is damaged, truncated, of an unknown format, or contradicts itself."""


class UnsupportedModel(HornbookError):
    """The file is sound, but its architecture, tensor type or tokenizer is not one that Hornbook knows."""


class ContextTooLong(UsageError):
    """A prompt does not fit in the model's context. Nothing is ever truncated in silence."""


class GenerationError(HornbookError):
    """The model cannot choose a next token (its logits are not numbers, or every token is forbidden)."""


class DeadlineExceeded(HornbookError):
    """A request was not done by its deadline; what it had said until then was streamed."""


class KernelError(HornbookError):
    """A native kernel refused its arguments or ran out of memory, or another build of the kernels was found."""


class ModelClosed(UsageError):
    """A model was used after it was closed."""


class RemoteError(HornbookError):
    """A model server cannot be reached, fails, or answers what cannot be understood."""


class RemoteRefused(UsageError):
    """A model server refused the request, which it says in its own words; ``status`` is HTTP's."""

    def __init__(self, what: str, remedy: str = "", *, status: int = 0) -> None:
        super().__init__(what, remedy)
        self.status = status


class TemplateError(HornbookError):
    """A chat template is missing, refuses the messages, or tries to leave its sandbox."""


class ParseError(HornbookError):
    """A document cannot be read: damaged, empty of text, too large, or of a format that is not supported."""


class IndexFailure(HornbookError):
    """An index cannot be opened or used."""


class IndexMismatch(IndexFailure):
    """The index was made with another embedding model or another format than the one asked for."""


class DataError(HornbookError):
    """Training data is not what its format says: the file and the line are named."""


class SandboxError(HornbookError):
    """This machine cannot hold a program that a model wrote, or could not even start one."""


class TrainingError(HornbookError):
    """Training cannot go on: the loss is not a number, a batch holds nothing to learn, the batches ended."""


class GateFailed(HornbookError):
    """A model that was made of another is worse than that one, beyond chance: the scores are named."""


class TrainingStopped(HornbookError):
    """A training was asked to end (Control-C, SIGTERM) and has saved what it had learnt; ``exit_code`` is the shell's."""

    def __init__(self, what: str, remedy: str = "", *, exit_code: int = 130) -> None:
        super().__init__(what, remedy)
        self.exit_code = exit_code
