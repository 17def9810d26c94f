"""What every task's content has: a text and a model, checked, in each of the forms in which the task API writes them.

A task type's content is a subclass with its own further fields. Reasons never repeat what was sent.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError


def _not_blank(text: str) -> str:
    if text.isspace():
        raise PydanticCustomError("blank", "expected more than white space")
    return text


def _plain_name(name: str) -> str:
    if not name.isprintable() or " " in name:
        raise PydanticCustomError("model", "expected a model's name: printable characters without spaces")
    return name


class Content(BaseModel):
    """`{text, model?, …}`, or a bare string, which is a text for the default model.

    Unknown fields are ignored: the API may add some at any time. `default_model`: for a type that has a model of its
    own; empty, it is the settings'. `Processor.parse` brings it along.
    """

    model_config = ConfigDict(
        strict=True, frozen=True, extra="ignore", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    default_model: ClassVar[str] = ""

    text: Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_not_blank)]
    model: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_plain_name)]

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, document: object, info: ValidationInfo) -> object:
        if isinstance(document, str):
            document = {"text": document}
        if not isinstance(document, dict):
            raise PydanticCustomError("form", "expected a text, or an object with a text")
        given: dict[Any, Any] = document
        return {**given, "model": info.context} if given.get("model") is None and info.context else given

    def to_json(self) -> bytes:
        """The known fields, always in one order: for the ledger, where `Processor.load` reads it; twins share it."""
        return self.model_dump_json().encode()
