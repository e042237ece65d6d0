"""Split a table, fit the preprocessing on its training rows and write both."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, plain, run
from entrypoints._targets import build
from entrypoints.onboard import onboard, storage_options

if TYPE_CHECKING:
    from ml_project_template.data import Fold, RawTable
    from ml_project_template.data.prepare import Prepared

log = logging.getLogger(__name__)


def preprocess(cfg: DictConfig) -> Prepared:
    """Prepare the splits of ``cfg.data``; the raw file is onboarded first if it is missing.

    Args:
        cfg: The configuration: ``data``, ``preprocessing``, ``storage``.

    Returns:
        The training, validation and test rows, prepared, and what prepared them.

    Raises:
        DataError: The table can't be used as it is.
    """
    from ml_project_template.data import Preprocessor
    from ml_project_template.data.column_table import describe_columns
    from ml_project_template.data.prepare import prepare

    onboard(cfg)
    prepared = prepare(
        raw_table(cfg),
        preprocessor=build(cfg.preprocessing, Preprocessor, where="preprocessing"),
        output_root=f"{cfg.storage.data_root}/processed",
    )
    if not prepared.reused:
        for line in describe_columns(prepared.signature, prepared.train.dropped):
            log.info("%s", line)
    rows = {"training": prepared.train, "validation": prepared.val, "test": prepared.test}
    log.info(
        "Preprocess: %s %s (%s rows)",
        prepared.directory,
        "is unchanged, nothing to do" if prepared.reused else "is new",
        ", ".join(f"{len(part)} {name}" for name, part in rows.items() if part is not None),
    )
    return prepared


def preprocess_folds(cfg: DictConfig) -> list[Fold]:
    """Cut the rows of ``cfg.data`` that are not for the test into ``cfg.cv`` folds, each prepared.

    Args:
        cfg: The configuration: ``data``, ``preprocessing``, ``storage``, ``cv``.

    Returns:
        The folds, in memory.

    Raises:
        DataError: The table can't be cut so.
    """
    from ml_project_template.data import Preprocessor, prepare_folds

    folds = prepare_folds(
        raw_table(cfg),
        preprocessor=build(cfg.preprocessing, Preprocessor, where="preprocessing"),
        cv=cfg.cv,
    )
    log.info("Preprocess: %d folds of the training and validation rows", len(folds))
    return folds


def raw_table(cfg: DictConfig, **changes: Any) -> RawTable:
    """Say which table ``cfg.data`` is, and how it is read and split: the same in every stage.

    Args:
        cfg: The configuration: ``data``, ``storage``.
        **changes: What is to differ from it.
    """
    from ml_project_template.data import RawTable, SplitSettings

    settings = {**split_arguments(cfg), "storage_options": storage_options(cfg), **changes}
    return RawTable(split_by=SplitSettings(**plain(cfg.data.split)), **settings)


def split_arguments(cfg: DictConfig) -> dict[str, Any]:
    """Give the settings of ``cfg.data`` that are a `RawTable`'s, but those in ``split``."""
    arguments: dict[str, Any] = plain(cfg.data)
    del arguments["source"], arguments["split"]
    options = arguments["read_options"]
    arguments["read_options"] = {key: value for key, value in options.items() if value is not None}
    return arguments


@entrypoint("preprocess")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    preprocess(cfg)


if __name__ == "__main__":
    run(main)
