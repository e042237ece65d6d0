"""Serve a saved model over HTTP."""

from __future__ import annotations

import json
import logging

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, run
from entrypoints.onboard import storage_options

log = logging.getLogger(__name__)


def serve(cfg: DictConfig) -> None:
    """Serve ``cfg.model.path`` until the process is told to end.

    Args:
        cfg: The configuration, see ``conf/serve.yaml``.

    Raises:
        ArtifactError: The model can't be loaded; nothing is served then.
    """
    import uvicorn

    from ml_project_template.predictor import Predictor
    from ml_project_template.serving.app import create_app

    predictor = Predictor.load(cfg.model.path, storage_options=storage_options(cfg))
    address = f"http://{cfg.server.host}:{cfg.server.port}"
    log.info("Serve: %s at %s, try it by hand at %s/docs", cfg.model.path, address, address)
    log.info("%s", _example(predictor.sample, address))
    uvicorn.run(
        create_app(predictor), host=cfg.server.host, port=cfg.server.port, log_level="warning"
    )


def _example(sample: list[dict[str, object]], address: str) -> str:
    body = json.dumps({"features": sample[:1]})
    return f"curl {address}/predict -H 'Content-Type: application/json' -d '{body}'"


@entrypoint("serve")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    serve(cfg)


if __name__ == "__main__":
    run(main)
