from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_project_template.artifacts import open_model_directory, write_config, write_model_directory
from ml_project_template.data import TabularDataset
from ml_project_template.data.sources import onboard
from ml_project_template.errors import ArtifactError
from ml_project_template.models import ModelRegistry
from ml_project_template.training.reporting import Reporter
from ml_project_template.unsent import keep_model, waiting_models
from ml_project_template.utils import io
from tests.object_store import ObjectStore, start_object_store


def write(directory: Path) -> None:
    write_config(directory, name="mlp", params={})


@pytest.fixture
def model(workspace: Path) -> Path:
    return Path(write_model_directory(str(workspace / "made"), write))


@pytest.fixture
def options(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return io.get_storage_options()


def test_a_kept_model_is_a_model_like_any_other_and_is_sent_once(
    model: Path, object_store: ObjectStore, options: dict[str, object]
) -> None:
    assert waiting_models() == []
    target = f"s3://{object_store.new_bucket()}/models/iris"
    kept = keep_model(model, target, options)
    with open_model_directory(kept):
        pass
    (waiting,) = waiting_models()
    assert (waiting.target, waiting.model) == (target, kept)
    assert waiting.send() == target
    with open_model_directory(target):
        pass
    assert waiting_models() == []


def test_what_is_kept_holds_no_key(
    model: Path, object_store: ObjectStore, options: dict[str, object]
) -> None:
    kept = keep_model(model, "s3://models/iris", {**options, "secret": "hidden-word"})
    text = (kept.parent / "unsent.json").read_text()
    assert "hidden-word" not in text
    assert object_store.secret_key not in text
    assert json.loads(text)["endpoint_url"] == object_store.endpoint_url


def test_two_models_of_one_place_are_both_kept(model: Path) -> None:
    first = keep_model(model, "s3://models/iris")
    second = keep_model(model, "s3://models/iris")
    assert {waiting.model for waiting in waiting_models()} == {first, second}


def test_a_model_that_can_not_be_sent_stays(model: Path, options: dict[str, object]) -> None:
    keep_model(model, "s3://no-such-bucket/iris", options)
    (waiting,) = waiting_models()
    with pytest.raises(FileNotFoundError, match="No bucket 'no-such-bucket'"):
        waiting.send()
    assert waiting_models() == [waiting]


@pytest.mark.parametrize("content", ["{", "[]", '{"target": 1, "created_at": "x"}'])
def test_a_damaged_record_is_told(model: Path, content: str) -> None:
    kept = keep_model(model, "s3://models/iris")
    (kept.parent / "unsent.json").write_text(content)
    with pytest.raises(ArtifactError, match=str(kept.parent)):
        waiting_models()


class Kill(Reporter):
    """Kill the store when the fit has begun."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def report(self, step: int, metrics: object, total: int | None = None) -> None:
        if step == 1:
            self._store.kill()


def test_a_model_whose_storage_dies_in_the_training_is_kept(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onboard(source="sklearn:iris", path="iris.csv")
    data = TabularDataset.from_csv("iris.csv", target_column="target")
    with start_object_store(workspace / "store") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        target = f"s3://{store.new_bucket()}/models/iris"
        with pytest.raises(ArtifactError) as caught:
            ModelRegistry.get("gb_classifier")(max_iter=3).train(
                experiment_name="x",
                train_data=data,
                tracking=False,
                model_path=target,
                reporters=[Kill(store)],
                storage_options=io.get_storage_options(),
            )
        message = str(caught.value)
        (waiting,) = waiting_models()
        assert message.startswith(f"Can't reach the store at '{store.endpoint_url}'")
        assert f"kept in '{waiting.model}': python -m entrypoints.sync" in message
        assert "\n" not in message
        port = int(store.endpoint_url.rpartition(":")[2])
        with start_object_store(workspace / "store", port=port):
            waiting.send()
            assert ModelRegistry.load(target).predict(data).shape == (150, 3)
    assert waiting_models() == []
