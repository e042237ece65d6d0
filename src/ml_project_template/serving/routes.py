"""How an address of the hot path is declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ml_project_template.serving.http import Endpoint

__all__ = ["HotRoute", "json_answer", "refusals"]


@dataclass(frozen=True, slots=True)
class HotRoute:
    """An address that is answered by a plain function.

    Attributes:
        method: The HTTP method.
        path: The whole path: models have fixed names, so there is nothing to match.
        label: The path as metrics show it, such as ``/models/{name}/predict``.
        endpoint: What answers.
        operation: Gives its part of the OpenAPI document; None keeps it out.
    """

    method: str
    path: str
    label: str
    endpoint: Endpoint
    operation: Callable[[], dict[str, Any]] | None = None


def json_answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Describe a JSON answer for an OpenAPI operation."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def refusals(*statuses: int, key: str = "detail") -> dict[str | int, Any]:
    """Describe the answers to requests that are refused; `key` is what holds the message."""
    texts = {
        400: "The body can't be read",
        401: "A bearer token is needed",
        404: "There is nothing of that name",
        406: "No such form of an answer",
        408: "The body took too long",
        413: "The body is too large",
        415: "No such form of a request",
        422: "A row can't be predicted; the detail names the row and the feature",
        429: "Too many requests wait",
    }
    message = {
        "type": "object",
        "required": [key],
        "properties": {key: {"type": "string"}},
    }
    return {str(status): json_answer(texts[status], message) for status in statuses}
