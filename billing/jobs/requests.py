"""Requests: the shape of what an app may ask for, and one sentence about what is wrong with it."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from billing.errors import InvalidRequest

BODY_MAX_BYTES = 1_000_000
BIGINT_MAX = 2**63 - 1
EXACT_MAX = 2**53
"""Up to here each whole number is a float of its own; a larger float may stand for several."""
IDS = ("job_id", "idempotency_key")
"""Fields that an app may give as a UUID instead of text."""
# In JSON text: an unescaped lone surrogate, or an escaped NUL (an even number of backslashes before its own).
_NOT_TEXT = re.compile(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000")

Prompt = Annotated[str, StringConstraints(min_length=1)]
Label = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,50}$")]
RelatedId = Annotated[int, Field(ge=0, le=BIGINT_MAX)]
Size = Annotated[str, StringConstraints(pattern=r"^[0-9]{2,5}x[0-9]{2,5}$")]
Quality = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}$")]
Style = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}$")]
Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Message(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Prompt


class _Params(_Strict):
    related_object_type: Annotated[str, StringConstraints(min_length=1, max_length=50)] | None = None
    related_object_id: RelatedId | None = None
    # Whose use of a plan's limits is told apart, such as a site of the account.
    label: Label | None = None


class TextParams(_Params):
    """What a text operation takes: a prompt, or a conversation."""

    prompt: Prompt | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=200)] | None = None
    system: Prompt | None = None
    max_output_tokens: Annotated[int, Field(ge=16, le=10_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    json_mode: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> TextParams:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def texts(self) -> list[str]:
        """Every text that the model reads."""
        turns = [message.content for message in self.messages or []]
        return [text for text in (self.system, self.prompt) if text is not None] + turns


class ImageParams(_Params):
    """What an image operation takes; which sizes, qualities and styles there are, the model's row says."""

    prompt: Prompt
    n: Annotated[int, Field(ge=1, le=1_000)] = 1
    size: Size | None = None
    quality: Quality | None = None
    style: Style | None = None


class WholeImageParams(ImageParams):
    """The parameters of an image job: what the request left open is filled in, and the format that its model takes.

    `style_in_prompt` is a style that the model does not know: it is told in words.
    """

    response_format: str | None = None
    style_in_prompt: str | None = None

    @property
    def told(self) -> str:
        """The prompt as the provider is sent it."""
        return styled(self.prompt, self.style_in_prompt)


class EmbeddingParams(_Params):
    """What an embedding operation takes: one text or several."""

    input: Annotated[list[Prompt], Field(min_length=1, max_length=2_048)]


class WholeEmbeddingParams(EmbeddingParams):
    """The parameters of an embedding job: those of its request, and the format that its model takes."""

    encoding_format: str | None = None


PARAMS: dict[str, type[TextParams] | type[WholeImageParams] | type[WholeEmbeddingParams]] = {
    "text": TextParams,
    "image": WholeImageParams,
    "embedding": WholeEmbeddingParams,
}
"""The parameters of a job, by its kind."""


class Submission(_Strict):
    """A request as an app sends it. Ids may be chosen by the app, so that it can look its job up at once."""

    account_id: Annotated[int, Field(ge=1, le=BIGINT_MAX)]
    operation: Annotated[str, StringConstraints(min_length=1, max_length=50)]
    params: dict[str, Any]
    model: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    user_id: Annotated[int, Field(ge=1, le=BIGINT_MAX)] | None = None
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    job_id: UUID | None = None


def parse(data: object) -> Submission:
    """Read a request from plain data, as from JSON, where an id may be a UUID.

    Raises InvalidRequest with one sentence, never with the input.
    """
    if not isinstance(data, dict):
        raise InvalidRequest("A request must be a JSON object.")
    given = _as_json_has_it(
        {name: str(value) if name in IDS and isinstance(value, UUID) else value for name, value in data.items()}
    )
    if isinstance(given.get("job_id"), str):
        try:
            given["job_id"] = UUID(given["job_id"])
        except ValueError:
            raise InvalidRequest("job_id must be a UUID.") from None
    return validated(Submission, given, "invalid_request")


def styled(prompt: str, style: str | None) -> str:
    """The prompt of an image, with a style that its model does not know told in words."""
    return prompt if style is None else f"{prompt}\n\nStyle: {style}."


def from_json(text: str) -> Any:
    """What a JSON text says; equal numbers are the same, so 1.0 and 1e0 are 1. Raises what `json.loads` raises."""
    return json.loads(text, parse_float=_number)


def read_params(kind: str, params: dict[str, Any]) -> TextParams | WholeImageParams | WholeEmbeddingParams:
    """The stored params of a job, as they were validated and made whole at submission."""
    return PARAMS[kind].model_validate(params)


def _as_json_has_it(data: dict[Any, Any]) -> dict[str, Any]:
    """The request as its JSON text has it: what is equal there is the same, whatever Python called it."""
    try:
        body = json.dumps(data, allow_nan=False, ensure_ascii=False, default=_refuse)
        if _NOT_TEXT.search(body):
            raise InvalidRequest(
                "A request must be valid text: it holds a NUL or a lone surrogate.", code="invalid_text"
            )
        if len(body.encode()) > BODY_MAX_BYTES:
            raise InvalidRequest(f"A request may have {BODY_MAX_BYTES:,} bytes at most.", code="body_too_large")
        read: dict[str, Any] = from_json(body)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest("A request must be plain JSON, without NaN or infinity.") from None
    return read


def _refuse(value: object) -> None:
    raise InvalidRequest(f"A request must be plain JSON: it holds a value of Python's type {type(value).__name__}.")


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) <= EXACT_MAX else number


def validated(shape: type[Model], data: dict[str, Any], code: str) -> Model:
    """Plain data as this shape; raises InvalidRequest with one sentence on the first thing that is wrong."""
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        # A field's name may be anything, too: a line break in it must not split the sentence.
        loc = ".".join(str(part) for part in first["loc"])[:80]
        place = "".join(letter if letter.isprintable() else "?" for letter in loc)
        unknown = first["type"] == "extra_forbidden"
        what = "there is no such field" if unknown else first["msg"].removeprefix("Value error, ")
        sentence = f"{place}: {what}." if place else f"{what[:1].upper()}{what[1:]}."
        raise InvalidRequest(sentence, code=code) from None
