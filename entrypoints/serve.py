"""Serve a saved model over HTTP."""

from __future__ import annotations

import json
import logging
import socket

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, run
from entrypoints.onboard import storage_options
from ml_project_template.errors import ConfigError

log = logging.getLogger(__name__)


def serve(cfg: DictConfig) -> None:
    """Serve ``cfg.model.path`` until the process is told to end.

    Args:
        cfg: The configuration, see ``conf/serve.yaml``.

    Raises:
        ArtifactError: The model can't be loaded; nothing is served then.
        ConfigError: The address can't be used.
    """
    import uvicorn

    from ml_project_template.predictor import Predictor
    from ml_project_template.serving.app import create_app

    with _listen(cfg.server.host, cfg.server.port) as listener:
        predictor = Predictor.load(cfg.model.path, storage_options=storage_options(cfg))
        address = f"http://{cfg.server.host}:{listener.getsockname()[1]}"
        log.info("Serve: %s at %s, try it by hand at %s/docs", cfg.model.path, address, address)
        log.info("%s", _example(predictor.sample, address))
        server = uvicorn.Server(uvicorn.Config(create_app(predictor), log_level="warning"))
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before the model is loaded: a wrong one is told at once."""
    if not isinstance(port, int) or not 0 <= port < 2**16:
        raise ConfigError(f"server.port: must be a whole number below 65536, got {port!r}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"server.host={host} server.port={port} can't be used: {error.strerror or error}"
        ) from error


def _example(sample: list[dict[str, object]], address: str) -> str:
    body = json.dumps({"features": sample[:1]})
    return f"curl {address}/predict -H 'Content-Type: application/json' -d '{body}'"


@entrypoint("serve")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    serve(cfg)


if __name__ == "__main__":
    run(main)
