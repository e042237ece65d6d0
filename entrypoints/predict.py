"""Score the rows of a file with a saved model."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, run
from entrypoints.onboard import storage_options

log = logging.getLogger(__name__)


def predict(cfg: DictConfig) -> int:
    """Write ``cfg.input`` with the predicted class and its probabilities to ``cfg.output``.

    Args:
        cfg: The configuration, see ``conf/predict.yaml``.

    Returns:
        The number of rows.

    Raises:
        ArtifactError: The model can't be loaded.
        DataError: A row or a column can't be used. Nothing is written then.
    """
    from tqdm import tqdm

    from ml_project_template.predictor import Predictor, score_file

    options = storage_options(cfg)
    predictor = Predictor.load(cfg.model.path, storage_options=options)
    # `disable=None`: a bar on a terminal alone.
    with tqdm(desc="Predict", unit=" rows", disable=None) as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        rows = score_file(
            predictor,
            cfg.input,
            cfg.output,
            chunk_size=cfg.chunk_size,
            delimiter=cfg.sep,
            decimal=cfg.decimal,
            storage_options=options,
            progress=show,
        )
    log.info("Predict: %d rows of %s scored to %s", rows, cfg.input, cfg.output)
    return rows


@entrypoint("predict")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    predict(cfg)


if __name__ == "__main__":
    run(main)
