"""Serve saved models over HTTP."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, plain, run
from entrypoints.onboard import storage_options
from ml_project_template.errors import ConfigError, unknown

if TYPE_CHECKING:
    from ml_project_template.serving import ModelServer, ModelSource
    from ml_project_template.serving.metrics import ServerMetrics

log = logging.getLogger(__name__)

_BACKENDS = ("auto", "model", "onnxruntime")


def serve(cfg: DictConfig) -> None:
    """Serve ``cfg.model.path``, or all of ``cfg.models``, until the process is told to end.

    Args:
        cfg: The configuration, see ``conf/serve.yaml``.

    Raises:
        ArtifactError: A model can't be loaded; nothing is served then.
        ConfigError: A wrong setting, or an address that can't be used.
    """
    from ml_project_template.serving.settings import ServerSettings

    options = plain(cfg.server)
    host, port, workers = options.pop("host"), options.pop("port"), options.pop("workers")
    backend = options.pop("backend")
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= 256:
        raise ConfigError(f"server.workers: must be a whole number from 1 to 256, got {workers!r}")
    if backend not in _BACKENDS:
        raise ConfigError(f"server.backend: {unknown('backend', str(backend), _BACKENDS)}")
    settings = ServerSettings(**options)
    sources = _sources(cfg, backend)
    with _listen(host, port) as listener:
        from ml_project_template.serving import create_app
        from ml_project_template.serving import server as serving

        address = _address(host, listener.getsockname()[1])
        apps: list[ModelServer] = []

        def make_app(metrics: ServerMetrics) -> ModelServer:
            app = create_app(sources, settings, metrics)
            apps.append(app)
            return app

        def tell() -> None:
            for name, source in sources.items():
                log.info("Serve: %s from %s", name, source.path)
            log.info("Try it by hand at %s, or:", address)
            if apps:
                model = apps[0].models[apps[0].models.default]
                log.info("%s", _example(model.contract.sample_row(), address, settings.token))

        if serving.serve(make_app, listener, workers=workers, on_ready=tell):
            raise SystemExit(1)


def _sources(cfg: DictConfig, backend: str) -> dict[str, ModelSource]:
    """Find out which models to serve, by the names they are served by."""
    from ml_project_template.serving import ModelSource

    several: Mapping[str, Any] = plain(cfg.models) or {}
    if (cfg.model.path is None) == (not several):
        raise ConfigError(
            "model.path: is required: model.path=..., or models.<name>.path=... for several"
            if not several
            else "model.path and models: give one of the two"
        )
    paths: dict[str, str] = {}
    if cfg.model.path is not None:
        paths[_name_of(str(cfg.model.path))] = str(cfg.model.path)
    for name, model in several.items():
        if not isinstance(model, Mapping) or set(model) != {"path"} or not model["path"]:
            raise ConfigError(f"models.{name}: must be given as models.{name}.path=...")
        paths[str(name)] = str(model["path"])
    options = storage_options(cfg)
    return {name: ModelSource(path, options, backend) for name, path in paths.items()}


def _name_of(path: str) -> str:
    """Name a model after its place: ``.models/iris_mlp`` is ``iris_mlp``."""
    if path.startswith("models:/"):
        last = re.split(r"[@/]", path.removeprefix("models:/"))[0]
    else:
        last = path.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip("._-")[:64]
    return name or "model"


def _address(host: str, port: int) -> str:
    # Nobody can open the address that means "all of them".
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104
    return f"http://{f'[{shown}]' if ':' in shown and '[' not in shown else shown}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before the model is loaded: a wrong one is told at once."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 2**16:
        raise ConfigError(f"server.port: must be a whole number below 65536, got {port!r}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"server.host={host} server.port={port} can't be used: {error.strerror or error}"
        ) from error


def _example(sample: dict[str, object], address: str, token: str | None) -> str:
    body = json.dumps({"features": [sample]}).replace("'", "'\\''")
    key = "" if token is None else ' -H "Authorization: Bearer $SERVER_TOKEN"'
    return f"curl {address}/predict -H 'Content-Type: application/json'{key} -d '{body}'"


@entrypoint("serve", open_keys=("models",))
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    serve(cfg)


if __name__ == "__main__":
    run(main)
