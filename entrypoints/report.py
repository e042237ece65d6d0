"""Show a table, and what a model makes of it, on a page of its own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, plain, run
from entrypoints.evaluate import as_trained, warn_of_other_rows
from entrypoints.onboard import onboard, storage_options
from entrypoints.preprocess import raw_table
from ml_project_template.errors import ConfigError, TrackingError
from ml_project_template.utils.io import is_dir, write_bytes
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from ml_project_template.predictor import Predictor

__all__ = ["report"]

log = logging.getLogger(__name__)

_ARTIFACT = "report.html"


def report(cfg: DictConfig) -> str:
    """Write the page of ``cfg.data``, and of ``cfg.model.path`` if there is one.

    Args:
        cfg: The configuration, see ``conf/report.yaml``.

    Returns:
        Where the page is.

    Raises:
        ArtifactError: The model can't be loaded.
        ConfigError: The page can't be written where it shall be.
        DataError: The table can't be used, or lacks a feature of the model.
    """
    options = storage_options(cfg)
    output = str(cfg.output or "")
    if not output.endswith((".html", ".htm")) or is_dir(output, options):
        raise ConfigError(f"output: must name a file that ends in .html, got '{output}'")
    if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise ConfigError(f"seed: must be a whole number of at least 0, got {cfg.seed!r}")
    predictor = None
    if cfg.model.path is not None:
        from ml_project_template.predictor import Predictor

        predictor = Predictor.load(str(cfg.model.path), storage_options=options)
    onboard(cfg)
    table = raw_table(cfg, **({} if predictor is None else as_trained(predictor.signature)))
    parts = table.parts()
    digest = parts["train"].digest
    if predictor is not None:
        warn_of_other_rows(cfg, predictor.model.metadata, digest)

    from ml_project_template.report.page import report_page

    title = str(cfg.data.name) if predictor is None else f"{predictor.name} on {cfg.data.name}"
    rows = ", ".join(f"{len(parts[s])} {s}" for s in ("train", "val", "test") if s in parts)
    card = {key.capitalize(): str(words) for key, words in plain(cfg.card).items() if words}
    page = report_page(
        parts,
        title=title,
        predictor=predictor,
        card=card,
        facts={"Table": public_url(table.path), "SHA-256": str(digest), "Rows": rows},
        seed=cfg.seed,
    ).encode()
    write_bytes(output, page, storage_options=options)
    log.info("Report: %s (%d KB)", public_url(output), len(page) // 1000)
    if predictor is not None and cfg.tracking.enabled:
        _attach(predictor, page, cfg)
    return output


def _attach(predictor: Predictor, page: bytes, cfg: DictConfig) -> None:
    """Put the page among the artifacts of the model's run, if there is one."""
    from ml_project_template.tracking.attachments import attach

    run_id = predictor.model.metadata.get("run_id")
    if not run_id:
        return
    try:
        attach(str(run_id), _ARTIFACT, page, uri=cfg.tracking.uri)
    except TrackingError as error:
        # The page is written: that its run has no copy is no reason to fail.
        log.warning("The page is not among the artifacts of run %s: %s", run_id, error)
    else:
        log.info("Report: among the artifacts of run %s", run_id)


@entrypoint("report")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    report(cfg)


if __name__ == "__main__":
    run(main)
