"""The HTTP application of one or more saved models, made from their model directories alone.

What predicts is a hot path: a plain function for each address, which Starlette's and FastAPI's
machinery is not asked about. All else (health, docs, metrics, the page) is an ordinary FastAPI app.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.requests import Request as StarletteRequest
from starlette.routing import Route

from ml_project_template.inference import Inference
from ml_project_template.serving import mlflow_scoring, openinference, predictions, tables, web
from ml_project_template.serving.access_log import AccessLog, request_ids
from ml_project_template.serving.admission import Admission
from ml_project_template.serving.http import (
    PIPELINE,
    Answer,
    BodyLimits,
    ClientGoneError,
    Endpoint,
    Receive,
    RefusalError,
    Request,
    Scope,
    Send,
    problem,
    read_body,
)
from ml_project_template.serving.metrics import CONTENT_TYPE, ServerMetrics
from ml_project_template.serving.routes import HotRoute, refusals
from ml_project_template.serving.served import ModelSource, ServedModels
from ml_project_template.serving.settings import ServerSettings

__all__ = ["ModelServer", "create_app"]

_log = logging.getLogger(__name__)

# Answer without a token: what an orchestrator asks, and the page, which then asks for one.
_OPEN = frozenset(
    {
        "/",
        "/page.css",
        "/page.js",
        "/health",
        "/ready",
        "/ping",
        "/v2/health/live",
        "/v2/health/ready",
    }
)


def create_app(
    models: Mapping[str, ModelSource | Inference],
    settings: ServerSettings | None = None,
    metrics: ServerMetrics | None = None,
) -> ModelServer:
    """Make the application that answers for some models.

    Args:
        models: Name to model, or to where it comes from; the first is the default.
        settings: Limits and options.
        metrics: Where to count; None counts for this process alone.

    Raises:
        ProjectError: A model can't be loaded.
    """
    settings = settings or ServerSettings()
    metrics = metrics or ServerMetrics()
    served = ServedModels(
        models, metrics=metrics, max_rows=settings.max_rows, max_queue=settings.max_queue
    )
    return ModelServer(served, settings, metrics)


_REQUEST_ID = "ml_project_template.request_id"


def _key(path: str) -> str:
    """Say what a protocol calls the message of an error."""
    return "error" if path == "/v2" or path.startswith("/v2/") else "detail"


@dataclass(slots=True)
class _Hot:
    """A hot route as it is looked up."""

    endpoint: Endpoint
    label: str
    has_turns: bool


class ModelServer(FastAPI):
    """The ASGI application of a server.

    Args:
        models: What is served.
        settings: Limits and options.
        metrics: Where requests are counted.

    Attributes:
        models: What is served.
        settings: Limits and options.
        metrics: Where requests are counted.
        draining: Whether the server is about to end: ``/ready`` says 503, and each answer asks its
            client to close the connection.
    """

    def __init__(
        self, models: ServedModels, settings: ServerSettings, metrics: ServerMetrics
    ) -> None:
        # FastAPI's own telemetry is on by default and costs each request some microseconds.
        off: Any = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
        super().__init__(
            title=", ".join(models.names),
            version=models[models.default].inference.version,
            telemetry=None if settings.telemetry else off,
        )
        self.models = models
        self.settings = settings
        self.metrics = metrics
        self.draining = False
        self._limits = BodyLimits(
            settings.max_body_bytes, settings.body_timeout, settings.max_held_bytes
        )
        self._admission = Admission(settings.max_queue, settings.max_wait)
        self._token = None if settings.token is None else f"Bearer {settings.token}".encode()
        self._access = AccessLog() if settings.access_log else None
        self._new_id = request_ids()
        hot: Sequence[HotRoute] = [
            *predictions.routes(models),
            *openinference.routes(models, lambda: not self.draining),
            *mlflow_scoring.routes(models),
            *tables.routes(models),
        ]
        self._hot = {
            (route.method, route.path): _Hot(route.endpoint, route.label, route.method == "POST")
            for route in hot
            if "{" not in route.path
        }
        self._operations = [route for route in hot if route.operation is not None]
        for route in hot:
            # So that FastAPI knows them too: for 405, for a root path, for telemetry.
            self.router.routes.append(
                Route(
                    route.path,
                    self._as_asgi(route),
                    methods=[route.method],
                )
            )
        self._add_routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; ASGI's own call."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        started = perf_counter()
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        method, path = scope["method"], scope["path"]
        given = authorization = b""
        for name, value in headers:
            if name == b"x-request-id":
                given = value
            elif name == b"authorization":
                authorization = value
        request_id = self._new_id(given)
        hot = self._hot.get((method, path))
        size = 0
        if self._token is not None and path not in _OPEN and not self._is_allowed(authorization):
            answer = problem(RefusalError(401, "A bearer token is needed."), _key(path))
        elif hot is None or self.settings.telemetry or scope.get("root_path"):
            try:
                if hot is None and path not in _OPEN:
                    # The document of the API or the metrics cost as much as many predictions.
                    self._admission.check()
                    await self._admission.turn()
            except RefusalError as refusal:
                answer = problem(refusal, _key(path))
            else:
                await self._ordinary(scope, receive, send, started, request_id)
                return
        else:
            try:
                answer, size = await self._answer(
                    hot.endpoint, scope, receive, request_id, has_turns=hot.has_turns
                )
            except ClientGoneError:
                return
        await self._send(
            send, answer, request_id, is_last=self.draining and not scope.get(PIPELINE)
        )
        seconds = perf_counter() - started
        self.metrics.request("other" if hot is None else hot.label, answer.status, seconds)
        if self._access is not None:
            self._access.add(request_id, method, path, answer.status, seconds, size)

    async def _answer(
        self,
        endpoint: Endpoint,
        scope: Scope,
        receive: Receive,
        request_id: str,
        path_params: Mapping[str, str] = MappingProxyType({}),
        *,
        has_turns: bool,
    ) -> tuple[Answer, int]:
        """Read a request and have it answered, whatever happens; also returns its body's size."""
        headers = scope["headers"]
        size = 0
        try:
            if has_turns:
                self._admission.check()
            body = await read_body(receive, headers, self._limits)
            size = len(body)
            if has_turns:
                await self._admission.turn()
            return await endpoint(Request(body, headers, path_params)), size
        except RefusalError as refusal:
            return problem(refusal, _key(scope["path"])), size
        except ClientGoneError:
            raise
        except Exception:
            _log.exception("Request %s to %s failed", request_id, scope["path"])
            failure = RefusalError(500, "The server failed; its log says why.")
            return problem(failure, _key(scope["path"])), size
        finally:
            self._limits.release(size)

    async def _send(self, send: Send, answer: Answer, request_id: str, *, is_last: bool) -> None:
        """Send an answer; after the last one of a connection the client shall close it."""
        body = answer.body
        headers = [
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
        ]
        if answer.headers is not None:
            headers += answer.headers
        if is_last or answer.status == 408:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _ordinary(
        self, scope: Scope, receive: Receive, send: Send, started: float, request_id: str
    ) -> None:
        """Let FastAPI answer, and count the answer."""
        status = 500

        async def counting(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", request_id.encode())]
                if self.draining and not scope.get(PIPELINE):
                    added.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        scope[_REQUEST_ID] = request_id
        try:
            await super().__call__(scope, receive, counting)
        finally:
            seconds = perf_counter() - started
            # An unknown path is the client's word: as a label it could grow without end.
            route = scope.get("route")
            label = getattr(route, "path", None) or "other"
            self.metrics.request(label, status, seconds)
            if self._access is not None:
                self._access.add(request_id, scope["method"], scope["path"], status, seconds, 0)

    def _as_asgi(self, route: HotRoute) -> Any:
        """Make an endpoint of the hot path one of Starlette's."""

        async def answer(request: StarletteRequest) -> Response:
            scope = request.scope
            try:
                found, _ = await self._answer(
                    route.endpoint,
                    scope,
                    request.receive,
                    scope[_REQUEST_ID],
                    request.path_params,
                    has_turns=route.method == "POST",
                )
            except ClientGoneError:
                # Nobody reads it.
                return Response(status_code=400)
            return Response(
                found.body,
                found.status,
                {key.decode(): value.decode() for key, value in found.headers or []},
                found.content_type.decode(),
            )

        return answer

    def _is_allowed(self, authorization: bytes) -> bool:
        assert self._token is not None
        return hmac.compare_digest(authorization, self._token)

    def _add_routes(self) -> None:
        """Declare what FastAPI answers."""

        @self.get("/health")
        async def health() -> dict[str, str]:
            """Say that the process is alive."""
            return {"status": "ok"}

        @self.get("/ready", responses={503: {"description": "The server is about to end"}})
        async def ready() -> JSONResponse:
            """Say that the models are loaded and warmed up; the server does not listen before."""
            if self.draining:
                return JSONResponse({"status": "draining"}, 503, {"retry-after": "1"})
            return JSONResponse({"status": "ready"})

        @self.get("/info")
        async def info() -> dict[str, Any]:
            """Describe the default model, and name all of them."""
            return self._info(self.models.default)

        @self.get("/models/{name}/info", responses=refusals(404))
        async def model_info(name: str) -> Response:
            """Describe a model by the name it is served by."""
            if name not in self.models.names:
                names = ", ".join(self.models.names)
                return JSONResponse({"detail": f"No such model. Available: {names}."}, 404)
            return JSONResponse(self._info(name))

        @self.get("/metrics", response_class=PlainTextResponse)
        async def metrics() -> Response:
            """Give the numbers of the server in Prometheus' text format."""
            return Response(self.metrics.page(), media_type=CONTENT_TYPE.decode())

        web.add_page(self)

    def _info(self, name: str) -> dict[str, Any]:
        return {
            **self.models[name].info(),
            "models": self.models.names,
            "max_rows": self.settings.max_rows,
            "reload_problem": self.models.problems.get(name),
        }

    def openapi(self) -> dict[str, Any]:
        """Make the OpenAPI document, with the hot paths and the schemas of the models."""
        schema: dict[str, Any] = super().openapi()
        paths = schema.setdefault("paths", {})
        for route in self._operations:
            assert route.operation is not None
            paths.setdefault(route.path, {})[route.method.lower()] = route.operation()
        if self._token is not None:
            schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["bearer"] = {"type": "http", "scheme": "bearer"}
            schema["security"] = [{"bearer": []}]
        for path, operations in paths.items():
            for operation in operations.values():
                if path in _OPEN:
                    operation["security"] = []
                else:
                    more = (429,) if self._token is None else (401, 429)
                    operation["responses"] = {
                        **refusals(*more, key=_key(path)),
                        **operation["responses"],
                    }
        # Another version of a model may have come, with other features.
        self.openapi_schema = None
        return schema

    async def tick(self) -> None:
        """Do now and then what is not done for each request, until cancelled."""
        watch = self.settings.watch_seconds
        looked = perf_counter()
        while True:
            await asyncio.sleep(1.0 if watch is None else min(1.0, watch))
            self.metrics.write()
            if watch is not None and perf_counter() - looked >= watch:
                await self.models.reload(only_changed=True)
                looked = perf_counter()

    def close(self) -> None:
        """Write what is still to be written."""
        self.metrics.write()
        if self._access is not None:
            self._access.flush()
