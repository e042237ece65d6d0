"""The page at ``/``, where a model is tried by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import Response

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["add_page"]

_FOLDER = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def add_page(app: FastAPI) -> None:
    """Add the page and its two files to an application."""
    for path, (name, media_type) in _FILES.items():
        _add(app, path, (_FOLDER / name).read_bytes(), media_type)


def _add(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    async def answer() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    app.add_api_route(path, answer, include_in_schema=False, response_model=None)
