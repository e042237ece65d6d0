"""Whatever the table: the file and its target are enough, from the training to the answer."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from omegaconf import DictConfig, OmegaConf

from entrypoints._composition import CONFIG_DIRECTORY, compose_config
from entrypoints._training import fit_model
from entrypoints.preprocess import preprocess, raw_table
from ml_project_template.errors import DataError
from ml_project_template.inference import Inference
from ml_project_template.models import ModelRegistry
from ml_project_template.predictor import Predictor, score_file
from ml_project_template.serving import create_app, load_model
from ml_project_template.tracking import DisabledTracker
from tests.tables import TABLES

MODELS = sorted(path.stem for path in (CONFIG_DIRECTORY / "model").glob("*.yaml"))

ENDINGS = {"classification": "classifier", "regression": "regressor"}

# What makes a training short, of whichever model has such a setting.
SHORT = {
    "model.layer_dims": [None, 8, None],
    "model.max_iter": 5,
    "model.n_estimators": 5,
    "training.max_epochs": 2,
}

Compose = Callable[[str, str], DictConfig]


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Compose what a user types for a table and a model; all models share the prepared rows."""
    root = tmp_path_factory.mktemp("tables")

    def composed(table: str, model: str) -> DictConfig:
        file = root / f"{table.replace(' ', '_')}.csv"
        if not file.exists():
            TABLES[table].write(file)
        cfg = compose_config(
            "train",
            [
                *("data=csv", f"data.path={file}", f"data.target_column='{TABLES[table].target}'"),
                *(f"model={model}", f"storage.data_root={root}/data"),
                *(f"model_path={root}/models/{file.stem}/{model}", "tracking=disabled"),
            ],
        )
        for key, value in SHORT.items():
            if OmegaConf.select(cfg, key) is not None:
                OmegaConf.update(cfg, key, value)
        return cfg

    return composed


def _train(cfg: DictConfig) -> dict[str, float]:
    data = preprocess(cfg)
    report = fit_model(
        cfg, data.train, data.val, data.test, tracker=DisabledTracker(), progress=False
    )
    return report.metrics


def _pairs() -> list[tuple[str, str]]:
    """Every usable table with every model there is for its task."""
    return [
        (name, model)
        for name, table in TABLES.items()
        for model in MODELS
        if not table.refusal and f"{model}_{ENDINGS[table.task]}" in ModelRegistry.list()
    ]


@pytest.mark.parametrize(("table", "model"), _pairs())
def test_a_model_of_any_table_is_trained_judged_kept_and_asked(
    table: str, model: str, compose: Compose
) -> None:
    cfg = compose(table, model)
    metrics = _train(cfg)
    raw = raw_table(cfg)
    test = raw.split("test")
    assert test.task == TABLES[table].task
    assert test.y.shape == (len(test),)

    predictor = Predictor.load(cfg.model_path)
    judged = predictor.evaluate(test)
    assert judged == pytest.approx(
        {name.removeprefix("test_"): v for name, v in metrics.items() if name.startswith("test_")}
    )
    prediction = predictor.predict(test.features)
    assert len(prediction.predictions) == len(test)
    # A row that is sent as JSON has the answer that it has in a file.
    sample: list[dict[str, Any]] = predictor.sample
    assert len(predictor.predict(sample).predictions) == len(sample)

    served = Inference.load(cfg.model_path)
    rows = np.ascontiguousarray(
        served.signature.rows_to_frame(test.features).to_numpy(dtype=np.float64, na_value=np.nan)
    )
    answers = served.probabilities(rows)
    expected = prediction.probabilities
    if prediction.values is not None:
        expected = prediction.values[:, None]
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-6)

    scored = Path(cfg.model_path).with_suffix(".csv")
    everything = raw.split("all")
    assert score_file(predictor, cfg.data.path, str(scored)) == len(everything)
    with scored.open(newline="", encoding="utf-8") as file:
        written = [row["prediction"] for row in csv.DictReader(file)]
    told = predictor.predict(everything.features).predictions
    if prediction.values is None:
        assert written == told
    else:
        assert [float(text) for text in written] == pytest.approx(told)


@pytest.mark.parametrize("table", [name for name, table in TABLES.items() if not table.refusal])
def test_a_server_answers_rows_of_any_table_as_a_file_is_answered(
    table: str, compose: Compose
) -> None:
    cfg = compose(table, "linear")
    cfg.model_path = f"{cfg.model_path}_served"
    _train(cfg)
    predictor = Predictor.load(cfg.model_path)
    expected = predictor.predict(predictor.sample)
    with TestClient(create_app({"model": load_model(cfg.model_path)})) as client:
        told = client.post("/predict", json={"features": predictor.sample})
        assert told.status_code == 200, told.text
        assert client.get("/info").status_code == 200
        nonsense = client.post("/predict", json={"features": [{"no such column": 1}]})
        assert nonsense.status_code == 422
    body = told.json()
    if expected.values is not None:
        assert body["predictions"] == pytest.approx(expected.values.tolist())
        return
    assert body["predictions"] == expected.labels
    found = [[row[name] for name in expected.class_names] for row in body["probabilities"]]
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-6)


@pytest.mark.parametrize("table", [name for name, table in TABLES.items() if table.refusal])
def test_a_table_that_cannot_be_used_is_told_in_one_line(
    table: str, compose: Compose, tmp_path: Path
) -> None:
    cfg = compose(table, MODELS[0])
    cfg.storage.data_root = str(tmp_path / "data")
    refusal = TABLES[table].refusal
    assert refusal is not None
    with pytest.raises(DataError, match=refusal) as caught:
        _train(cfg)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.rglob("*.parquet"))
