"""What a server is told when it starts: ``hornbook serve``'s options, checked once."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hornbook.errors import UsageError

PORT = 11500


class Options(BaseModel):
    """Everything about one server that is not about the machine (settings.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=PORT, ge=0, le=65535)  # 0: one that is free
    require_key: bool = False  # always so where the address is not loopback
    cors_origins: tuple[str, ...] = ()  # of pages that may use the API, besides our own
    allow_hosts: tuple[str, ...] = ()  # further names that requests may call the server by (Host)
    rate: float = Field(default=300.0, gt=0)  # requests a second that one key, or one address, may make
    burst: int = Field(default=3000, ge=1)  # requests that it may make at once
    memory: int | None = Field(default=None, gt=0)  # bytes that loaded models may take in all; None: what is free
    keep_alive: float = Field(
        default=300.0, ge=-1
    )  # seconds that an unused model stays; 0: it goes at once, -1: it stays
    max_running: int = Field(default=64, ge=1, le=1024)  # answers of one model that are written at once
    max_waiting: int = Field(default=512, ge=1)  # requests that wait for one model beside; more are refused
    max_body_mb: float = Field(default=16.0, gt=0)
    max_upload_mb: float = Field(default=256.0, gt=0)
    timeout_s: float = Field(default=600.0, gt=0)  # that one answer may take
    drain_s: float = Field(default=30.0, ge=0)  # that running answers get when the server is told to stop
    log_prompts: bool = False

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Options as a person gives them; None is "not given". Raises UsageError."""
        try:
            return cls(**{key: value for key, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = "-".join(str(part) for part in first["loc"]).replace("_", "-")
            raise UsageError(f"--{name} {first.get('input')!r}: {first['msg']}", "hornbook serve --help") from error
