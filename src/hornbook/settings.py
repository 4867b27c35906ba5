"""One typed Settings object: what the environment (HORNBOOK_*) and ``HORNBOOK_HOME/config.toml`` say.

It is read where it is needed and passed down; nothing keeps it in a module. Environment beats file beats default.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from hornbook.errors import UsageError


class _TomlFile(PydanticBaseSettingsSource):
    """``config.toml`` in the home folder; an unknown key or a broken file is an error that names the file."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # pragma: no cover - required
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path = default_home() / "config.toml"
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {error}", "Correct it or move it away.") from error
        unknown = sorted(set(values) - set(Settings.model_fields))
        if unknown:
            raise UsageError(
                f"{path} has unknown keys: {', '.join(unknown)}",
                f"The keys are: {', '.join(sorted(Settings.model_fields))}.",
            )
        return values


class Settings(BaseSettings):
    """Everything that a person can set once instead of typing it each time."""

    model_config = SettingsConfigDict(env_prefix="HORNBOOK_", env_ignore_empty=True, extra="ignore", frozen=True)

    home: Path = Field(default_factory=lambda: default_home())
    offline: bool = False
    device: str = "auto"
    model: str = "smollm2:135m"
    embedder: str = "minilm"
    max_file_mb: float = Field(default=64.0, gt=0)
    native: bool = True  # the native kernels, where they were built
    isa: str = "auto"  # which of them: avx512vnni, avx2, neon or portable
    threads: int = Field(default=0, ge=0, le=1024)  # of the native kernels; 0: one for each physical core
    cache: Literal["float32", "float16", "int8"] = "float16"  # as what the native kernels keep keys and values
    cache_mb: float = Field(default=0.0, ge=0)  # memory for keys and values; 0: by what the machine has
    data: Annotated[tuple[Path, ...], NoDecode] = ()  # folders with the questions of evaluations, apart as in PATH

    @field_validator("data", mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        return (
            tuple(Path(one).expanduser() for one in value.split(os.pathsep) if one) if isinstance(value, str) else value
        )

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def indexes(self) -> Path:
        return self.home / "indexes"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _TomlFile(settings_cls)

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the settings; ``overrides`` (command-line flags) win, None means "not given"."""
        given = {key: value for key, value in overrides.items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise UsageError(
                f"the setting {key} is wrong: {first['msg']} (given: {first.get('input')!r})",
                f"Correct HORNBOOK_{key.upper()} or config.toml.",
            ) from error


def default_home() -> Path:
    """HORNBOOK_HOME, or the platform's folder for user data (~/.local/share/hornbook on Linux)."""
    home = os.environ.get("HORNBOOK_HOME")
    return Path(home).expanduser() if home else Path(platformdirs.user_data_dir("hornbook", appauthor=False))
