"""The bodies of Ollama's API as its clients send them. A field that is null is one that was not given.

What is no field of Ollama's is refused by its name, and so is what could not be honoured (``refused``): nothing that a
client asks for is left out in silence. Bodies are read whatever Content-Type says, as Ollama does: its own examples send
JSON as a form. (Whether another site's page may call at all is decided at the door, by Origin.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hornbook.errors import UsageError

Name = Annotated[str, Field(min_length=1, max_length=300)]
KeepAlive = int | float | str
Options = dict[str, Any]
B = TypeVar("B", bound="Body")

_NO_IMAGES = "no model here sees images yet: send text alone"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    refused: ClassVar[Mapping[str, str]] = {}  # field -> why

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise ValueError("must be a JSON object")
        for name, why in cls.refused.items():
            if data.get(name):
                raise ValueError(f"{name} is not supported: {why}")
        return {key: value for key, value in data.items() if value is not None and key not in cls.refused}


class Named(Body):
    """A model's name; older clients call it ``name``."""

    model: Name

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("model") is None and "name" in data:
            data = {**data, "model": data["name"]}
        return {key: value for key, value in data.items() if key != "name"} if isinstance(data, Mapping) else data


class Asking(Named):
    """What /api/generate and /api/chat share."""

    refused = {
        "width": "no model here draws",
        "height": "no model here draws",
        "steps": "no model here draws",
        "shift": "a context is never shifted under an answer; it ends with done_reason length",
        "debug_render_only": "POST /api/show tells the template",
    }

    stream: bool = True
    format: dict[str, Any] | Literal["", "json"] = ""
    options: Options = Field(default_factory=dict)
    keep_alive: KeepAlive | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    truncate: bool = False
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0


class Generate(Asking):
    refused = {
        **Asking.refused,
        "suffix": "no model here was trained to fill in the middle",
        "images": _NO_IMAGES,
    }

    prompt: str = ""
    system: str = ""
    template: str = ""
    context: list[int] = Field(default_factory=list)
    raw: bool = False


class CalledFunction(Body):
    name: Name
    arguments: dict[str, Any] = Field(default_factory=dict)
    index: int | None = None
    description: str | None = None


class Call(Body):
    function: CalledFunction
    id: str | None = None
    type: Literal["function"] = "function"


class Turn(Body):
    refused = {"images": _NO_IMAGES}

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str = ""  # of an earlier answer; no template is shown it again
    tool_calls: list[Call] = Field(default_factory=list)
    tool_name: str | None = None
    tool_call_id: str | None = None
    name: str | None = None


class Chat(Asking):
    messages: list[Turn] = Field(default_factory=list)
    tools: list[dict[str, Any]] = Field(default_factory=list)


class Embed(Named):
    input: str | list[str] = Field(default_factory=list)
    truncate: bool = False
    options: Options = Field(default_factory=dict)
    keep_alive: KeepAlive | None = None
    dimensions: Annotated[int, Field(ge=0)] = 0


class Embeddings(Named):
    prompt: str = ""
    options: Options = Field(default_factory=dict)
    keep_alive: KeepAlive | None = None


class Show(Named):
    refused = {
        "system": "create a model with it",
        "template": "create a model with it",
        "options": "create a model with them",
    }

    verbose: bool = False


class Delete(Named):
    pass


class Copy(Body):
    source: Name
    destination: Name


class Pull(Named):
    refused = {
        "insecure": "models are fetched over HTTPS and checked",
        "username": "sources need none",
        "password": "sources need none",
    }

    stream: bool = True


class Create(Named):
    refused = {
        "quantize": "weights are used as they are; hornbook export -q quantises them",
        "quantization": "weights are used as they are; hornbook export -q quantises them",
        "path": "files of the server are no request's to choose; upload them as blobs",
        "renderer": "prompts are written by a template",
        "parser": "calls are read by the template's format",
        "requires": "it names a version of Ollama",
        "draft": "a draft model is chosen where a model is loaded",
        "remote_host": "nothing leaves this machine",
        "info": "what a model is, its weights say",
    }

    stream: bool = True
    modelfile: str = ""
    from_: Annotated[str, Field(alias="from", max_length=4000)] = ""
    files: dict[str, str] = Field(default_factory=dict)
    adapters: dict[str, str] = Field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    license: str | list[str] = Field(default_factory=list)
    parameters: Options = Field(default_factory=dict)
    messages: list[Turn] = Field(default_factory=list)


async def read(request: Request, kind: type[B]) -> B:
    """The body of a request. Raises UsageError that names the first field that is wrong, and never its value."""
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        what = str(problem["msg"]).removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            what = "there is no such field"
        raise UsageError(
            f"{place}: {what}" if place else f"the body: {what}", "See /docs for what it takes."
        ) from error


def described(kind: type[Body]) -> dict[str, Any]:
    """``openapi_extra`` of a route whose body is read by ``read``."""
    schema = _inline(kind.model_json_schema(ref_template="{model}"))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _inline(schema: dict[str, Any]) -> Any:
    """The schema with its definitions in the places that name them."""
    definitions = schema.pop("$defs", {})

    def visit(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return visit(definitions[node["$ref"]])
            return {key: visit(value) for key, value in node.items()}
        return [visit(item) for item in node] if isinstance(node, list) else node

    return visit(schema)
