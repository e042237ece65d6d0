"""Going on with a training, from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_project_template import artifacts
from ml_project_template.data import TabularDataset
from ml_project_template.errors import ArtifactError, ConfigError, DivergenceError
from ml_project_template.models import MLPClassifier, ModelRegistry
from ml_project_template.training.checkpoints import CheckpointSettings
from ml_project_template.training.reporting import History
from ml_project_template.unsent import waiting_models
from ml_project_template.utils import io
from tests.object_store import ObjectStore

Splits = tuple[TabularDataset, TabularDataset, TabularDataset]


class _BreaksAt(History):
    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def report(self, step: int, metrics: Mapping[str, float], total: int | None = None) -> None:
        super().report(step, metrics, total)
        if step == self._step:
            raise ZeroDivisionError


def _train(model: Any, iris: Splits, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "experiment_name": "resume",
        "train_data": iris[0],
        "val_data": iris[1],
        "tracking": False,
        "progress": False,
        "seed": 1,
        "max_epochs": 6,
        **changes,
    }
    return model.train(**settings)


def _mlp() -> MLPClassifier:
    return MLPClassifier([None, 8, None], dropout=0.2, accelerator="cpu")


@pytest.mark.parametrize("seed", [1, None])
def test_it_goes_on_on_this_machine(seed: int | None, iris: Splits, tmp_path: Path) -> None:
    _check(iris, str(tmp_path / "m"), None, seed)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_it_goes_on_from_an_object_storage(iris: Splits, object_store: ObjectStore) -> None:
    options = io.get_storage_options(
        endpoint_url=object_store.endpoint_url,
        key=object_store.access_key,
        secret=object_store.secret_key,
    )
    bucket = object_store.new_bucket()
    _check(iris, f"s3://{bucket}/models/m", options, 1)
    assert not object_store.keys(bucket, "models/.checkpoints")


def _check(iris: Splits, path: str, options: Any, seed: int | None) -> None:
    every = CheckpointSettings(every_epochs=2)
    place = {"model_path": path, "storage_options": options, "seed": seed}
    with pytest.raises(ZeroDivisionError):
        _train(_mlp(), iris, checkpoint=every, reporters=[_BreaksAt(5)], **place)
    heard = History()
    resumed = _mlp()
    report = _train(
        resumed, iris, checkpoint=CheckpointSettings(resume=True), reporters=[heard], **place
    )
    # The first four are in the record, and were not done again.
    assert [row["step"] for row in report.history] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in heard.rows] == [5, 6]
    loaded = ModelRegistry.load(path, storage_options=options)
    np.testing.assert_array_equal(loaded.predict(iris[2]), resumed.predict(iris[2]))
    assert [row["step"] for row in loaded.metadata["history"]] == [1, 2, 3, 4, 5, 6]
    if seed is not None:
        whole = _mlp()
        whole_report = _train(whole, iris, seed=seed)
        assert report.history == whole_report.history
        np.testing.assert_array_equal(resumed.predict(iris[2]), whole.predict(iris[2]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epochs": 7}, r"training\.max_epochs was 6 and is 7"),
        ({"seed": 2}, "seed was 1 and is 2"),
        ({"save_model": "final"}, "save_model was best and is final"),
        ({"val_data": None}, r"data\.val was \{.*\} and is None"),
    ],
)
def test_only_the_same_training_is_gone_on_with(
    changes: dict[str, Any], message: str, iris: Splits, tmp_path: Path
) -> None:
    place = {"model_path": tmp_path / "m"}
    with pytest.raises(ZeroDivisionError):
        _train(
            _mlp(),
            iris,
            checkpoint=CheckpointSettings(every_epochs=1),
            reporters=[_BreaksAt(3)],
            **place,
        )
    again = CheckpointSettings(resume=True)
    with pytest.raises(ConfigError, match=message):
        _train(_mlp(), iris, checkpoint=again, **{**place, **changes})
    wider = MLPClassifier([None, 9, None], dropout=0.2, accelerator="cpu")
    with pytest.raises(ConfigError, match=r"model\.layer_dims was \[4, 8, 3\] and is \[4, 9, 3\]"):
        _train(wider, iris, checkpoint=again, **place)
    fewer = iris[0].split(test_size=0.5, random_state=0)[0]
    with pytest.raises(ConfigError, match=r"data\.train\.rows was 90 and is 45"):
        _train(_mlp(), (fewer, *iris[1:]), checkpoint=again, **place)


def test_a_model_whose_training_diverged_has_the_weights_of_before(
    iris: Splits, tmp_path: Path
) -> None:
    class Poison(History):
        def report(self, step: int, metrics: Mapping[str, float], total: int | None = None) -> None:
            super().report(step, metrics, total)
            if step == 3:
                raise DivergenceError("train_loss is nan", good_epoch=step)

    good = _mlp()
    _train(good, iris, max_epochs=3)
    model = _mlp()
    settings: dict[str, Any] = {"reporters": [Poison()], "model_path": tmp_path / "m"}
    with pytest.raises(DivergenceError):
        _train(model, iris, **settings)
    np.testing.assert_array_equal(model.predict(iris[2]), good.predict(iris[2]))
    assert list(tmp_path.iterdir()) == []
    # With a place for what is to survive it is kept there.
    settings |= {"reporters": [Poison()], "checkpoint": CheckpointSettings()}
    with pytest.raises(DivergenceError, match=r"model of epoch 3 is kept in '.*\.diverged/m'"):
        _train(_mlp(), iris, **settings)
    kept = ModelRegistry.load(str(tmp_path / ".diverged" / "m"))
    np.testing.assert_array_equal(kept.predict(iris[2]), good.predict(iris[2]))
    assert [path.name for path in tmp_path.iterdir()] == [".diverged"]


def test_whatever_a_store_raises_the_trained_model_is_kept(
    iris: Splits, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = artifacts.write_model_directory

    def break_off(path: str, *arguments: Any, **options: Any) -> str:
        if io.is_remote(path):
            raise RuntimeError("nobody has seen this one yet")
        return write(path, *arguments, **options)

    monkeypatch.setattr(artifacts, "write_model_directory", break_off)
    monkeypatch.setattr(artifacts, "check_target", lambda *_, **__: None)
    model = _mlp()
    with pytest.raises(ArtifactError, match="seen this one yet The trained model is kept in"):
        _train(model, iris, model_path="s3://bucket/models/m")
    (waiting,) = waiting_models()
    assert waiting.target == "s3://bucket/models/m"
    kept = ModelRegistry.load(str(waiting.model))
    np.testing.assert_array_equal(kept.predict(iris[2]), model.predict(iris[2]))
    assert [path.name for path in workspace.iterdir()] == [".unsent"]
