"""Models on MLflow: what describes them, and how one is found and fetched."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.tracking.client import log_level, reached, transfer_timeout
from ml_project_template.tracking.finding import find_run
from ml_project_template.utils.environment import package_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

    from ml_project_template.runs import SignatureLike

__all__ = [
    "LOADER_MODULE",
    "MODEL_NAME",
    "ModelFiles",
    "add_to_model",
    "download_model",
    "logged_model",
    "model_signature",
    "write_mlflow_model",
]

MODEL_NAME = "model"
LOADER_MODULE = "ml_project_template.predictor"


def download_model(uri: str, store: str | None = None) -> str:
    """Find the model directory inside an MLflow model.

    Args:
        uri: ``runs:/<run id>/model``, ``models:/<name>@<alias>``, ``models:/<name>/<version>`` or
            ``models:/<model id>``.
        store: The tracking address; None as for `tracking_uri`.

    Returns:
        A local path. What had to be downloaded is removed when the process ends.

    Raises:
        TrackingError: There is no such model, or it is none of ours.
    """
    with reached(store) as (client, address):
        local = _fetch(_model_location(client, uri), address)
        return str(_data_of(local, uri))


def add_to_model(
    uri: str, name: str, make: Callable[[str], None], store: str | None = None
) -> None:
    """Add a file to the model directory inside an MLflow model.

    Args:
        uri: As for `download_model`.
        name: The file's name.
        make: Is given a local path of the model directory, and puts the file there.
        store: The tracking address; None as for `tracking_uri`.

    Raises:
        TrackingError: There is no such model, or it is none of ours.
    """
    with reached(store) as (client, address):
        location = _model_location(client, uri)
        local = _fetch(location, address)
        data = _data_of(local, uri)
        make(str(data))
        if not _is_local(location):
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            files: Any = get_artifact_repository(location, tracking_uri=address)
            with transfer_timeout():
                files.log_artifact(str(data / name), data.relative_to(local.resolve()).as_posix())


def _fetch(location: str, address: str) -> Path:
    """Have the files of an MLflow model on this machine."""
    if _is_local(location):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(location).path))
    from mlflow.artifacts import download_artifacts

    target = tempfile.mkdtemp(prefix="mlflow-model-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    with transfer_timeout():
        return Path(
            download_artifacts(artifact_uri=location, dst_path=target, tracking_uri=address)
        )


def _is_local(location: str) -> bool:
    return urllib.parse.urlsplit(location).scheme in ("", "file")


def _data_of(local: Path, uri: str) -> Path:
    """Say where in an MLflow model of ours the model directory is."""
    if not (local / "MLmodel").is_file():
        raise TrackingError(f"'{uri}' holds no MLflow model.")
    flavor = _python_function(local / "MLmodel")
    data = (local / str(flavor.get("data"))).resolve()
    if flavor.get("loader_module") != LOADER_MODULE or local.resolve() not in data.parents:
        raise TrackingError(f"'{uri}' is an MLflow model, but none that this project wrote.")
    return data


def logged_model(client: MlflowClient, run: Run) -> str | None:
    """The id of the model that a run has logged whole; None if there is none."""
    outputs = run.outputs.model_outputs if run.outputs else []
    for output in reversed(outputs):
        model = client.get_logged_model(output.model_id)
        if model.name == MODEL_NAME and str(model.status).upper().endswith("READY"):
            return str(output.model_id)
    return None


def _python_function(description: Path) -> Mapping[str, Any]:
    """Read what loads an MLflow model."""
    # MLflow's own reader needs pandas, which an image that serves comes without.
    import yaml

    try:
        described = yaml.safe_load(description.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        described = None
    flavors = described.get("flavors") if isinstance(described, dict) else None
    found = flavors.get("python_function") if isinstance(flavors, dict) else None
    return found if isinstance(found, dict) else {}


def _model_location(client: MlflowClient, uri: str) -> str:
    """The address of an MLflow model's files."""
    parts = urllib.parse.urlsplit(uri)
    names = parts.path.strip("/").split("/")
    if parts.scheme == "runs" and len(names) == 2:
        run_id, name = names
        run = find_run(client, run_id)
        if run is None:
            raise TrackingError(f"There is no run '{run_id}'.")
        outputs = run.outputs
        for output in reversed(outputs.model_outputs if outputs else []):
            logged = client.get_logged_model(output.model_id)
            if logged.name == name:
                return str(logged.artifact_location)
        raise TrackingError(f"Run '{run_id}' has no model '{name}'.")
    if parts.scheme == "models" and len(names) == 1:
        name, _, alias = names[0].partition("@")
        if not alias:
            return str(client.get_logged_model(name).artifact_location)
        version = client.get_model_version_by_alias(name, alias).version
        return _version_location(client, name, version)
    if parts.scheme == "models" and len(names) == 2:
        return _version_location(client, *names)
    raise TrackingError(
        f"'{uri}' names no model. Write runs:/<run id>/model, models:/<name>@<alias> or "
        "models:/<name>/<version>."
    )


def _version_location(client: MlflowClient, name: str, version: str) -> str:
    """The address of a registered version's files; it may be that of a logged model."""
    source = client.get_model_version_download_uri(name, version)
    return _model_location(client, source) if source.startswith(("models:", "runs:")) else source


@dataclass(frozen=True)
class ModelFiles:
    """A local model directory with what MLflow wants to know of it.

    Attributes:
        directory: The model directory.
        signature: The raw columns and the class names, none for a regression.
        sample: Some raw rows, shown as the input example.
        requirements: Names of installed packages that loading needs, besides this one.
    """

    directory: Path
    signature: SignatureLike
    sample: Sequence[Mapping[str, Any]]
    requirements: Sequence[str] = ()


def write_mlflow_model(path: Path, files: ModelFiles, *, run_id: str) -> None:
    """Make an MLflow model of a model directory.

    It is a folder of plain files: MLflow's ``loader_module`` names the function that reads it, so
    nothing is pickled, and the requirements are given, so that MLflow does not load the model in a
    process of its own to find them.

    Args:
        path: The folder to be.
        files: The model directory.
        run_id: The run that the model is of.
    """
    from mlflow.models import Model
    from mlflow.pyfunc import save_model
    from pandas import DataFrame

    # It warns of what no user can mend, such as a virtual environment without pip.
    with log_level("mlflow.utils.environment", logging.ERROR):
        save_model(
            path=path,
            loader_module=LOADER_MODULE,
            data_path=str(files.directory.resolve()),
            signature=model_signature(files.signature),
            input_example=DataFrame([dict(row) for row in files.sample]),
            pip_requirements=_pinned(files.requirements),
            mlflow_model=Model(artifact_path=MODEL_NAME, run_id=run_id),
        )


def model_signature(signature: SignatureLike) -> ModelSignature:
    """The raw columns and the predictions in MLflow's words."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    types = {
        "float": DataType.double,
        "int": DataType.long,
        "bool": DataType.boolean,
        "category": DataType.string,
        "date": DataType.string,
    }
    # A regression has no classes.
    prediction = DataType.string if signature.class_names else DataType.double
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(types[feature.type], feature.name) for feature in signature.features
    ]
    outputs: list[ColSpec | TensorSpec] = [ColSpec(prediction, "prediction")]
    outputs += [ColSpec(DataType.double, f"probability_{name}") for name in signature.class_names]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _pinned(names: Sequence[str]) -> list[str]:
    """Requirements at the versions that are installed here."""
    wanted = sorted({"ml-project-template", "mlflow", *names})
    return [f"{name}=={package_version(name)}" for name in wanted]
