"""What the workflows find on the cluster: a store, a tracking server, and the keys to them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_project_template.tracking.client import import_mlflow
from tests.argo.runner import ROOT, Runner, load
from tests.object_store import ObjectStore
from tests.tracking_server import TrackingServer

ARGO = ROOT / "argo"


class Cluster:
    """A store with two buckets and a tracking server, as a namespace's settings name them."""

    def __init__(self, store: ObjectStore, tracking: TrackingServer) -> None:
        self.store = store
        self.tracking = tracking
        self.data, self.models = store.new_bucket(), store.new_bucket()
        keys = {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key}
        settings = {key: text for key, text in store.environment.items() if key not in keys}
        self.config = {
            "configMapRef ml-pipeline": {
                **settings,
                "MLFLOW_TRACKING_URI": tracking.uri,
                "S3_DATA_BUCKET": self.data,
                "S3_MODEL_BUCKET": self.models,
            },
            "secretRef ml-pipeline": keys,
        }

    @property
    def client(self) -> Any:
        import_mlflow()
        from mlflow import MlflowClient

        return MlflowClient(self.tracking.uri, registry_uri=self.tracking.uri)

    def runs(self, workflow: str) -> list[Any]:
        """Find the runs of a workflow, the first one first."""
        client = self.client
        experiments = [each.experiment_id for each in client.search_experiments()]
        found = client.search_runs(
            experiments, f"tags.workflow = '{workflow}'", order_by=["attributes.start_time ASC"]
        )
        return list(found)

    def read(self, key: str) -> bytes:
        content = self.store.client().get_object(Bucket=self.models, Key=key)["Body"].read()
        assert isinstance(content, bytes)
        return content


@pytest.fixture
def cluster(object_store: ObjectStore, tracking_server: TrackingServer) -> Cluster:
    return Cluster(object_store, tracking_server)


@pytest.fixture
def runner(cluster: Cluster, python: list[str]) -> Iterator[Callable[..., Runner]]:
    """Make a runner of one of the project's workflows."""
    with tempfile.TemporaryDirectory(prefix="argo-") as folder:

        def make(name: str, **settings: Any) -> Runner:
            template = load(ARGO / f"{name}.yaml")
            return Runner(template, Path(folder), cluster.config, python=python, **settings)

        yield make
