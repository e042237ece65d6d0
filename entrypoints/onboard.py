"""Put a raw table where the project finds it, unchanged, with its digest."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, plain, run
from ml_project_template.errors import ConfigError
from ml_project_template.utils.io import get_storage_options

if TYPE_CHECKING:
    from ml_project_template.data.sources import Onboarded

log = logging.getLogger(__name__)


def onboard(cfg: DictConfig, *, force: bool = False) -> Onboarded:
    """Fetch ``cfg.data.source`` to ``cfg.data.path`` unless it is there.

    Args:
        cfg: The configuration: ``data.source``, ``data.path``, ``storage.options``.
        force: Fetch it again even if it is there.

    Returns:
        Where the file is, its SHA-256 and size in bytes.

    Raises:
        ConfigError: Neither a path nor a source is given.
        DataError: The source or the file is not there.
    """
    from ml_project_template.data.sources import onboard as onboard_source

    options = storage_options(cfg)
    if cfg.data.path is None:
        raise ConfigError("data.path: is required, such as data.path=my.csv")
    onboarded = onboard_source(
        source=cfg.data.source,
        path=cfg.data.path,
        storage_options=options,
        force=force,
    )
    what = "is new" if onboarded.changed else "is there"
    log.info("Onboard: %s %s (SHA-256 %s)", onboarded.path, what, onboarded.digest[:12])
    return onboarded


def storage_options(cfg: DictConfig) -> dict[str, object]:
    """Give the options of the storage that ``cfg.storage`` names, as fsspec takes them."""
    for key in ("data_root", "model_root"):
        if not cfg.storage[key]:
            raise ConfigError(f"storage.{key}: must not be empty")
    options = plain(cfg.storage.options)
    if not isinstance(options, dict | None):
        raise ConfigError(f"storage.options: must be a mapping, got {options!r}")
    return get_storage_options(**options) if options else {}


# What is fetched may be looked at before its target is known.
@entrypoint("onboard", optional=frozenset({"data.target_column"}))
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    onboard(cfg, force=cfg.force)


if __name__ == "__main__":
    run(main)
