"""The trained model as people load one by hand: the same arithmetic for every server.

It needs nothing of the project but the files of a model directory.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np


class Model:
    """A trained model that takes raw rows.

    Args:
        directory: A model directory; without one, that of ``MODEL_DIR``.

    Attributes:
        classes: The class names, in the order of the probabilities' columns.
    """

    def __init__(self, directory: str | None = None) -> None:
        folder = Path(directory or os.environ["MODEL_DIR"])
        config = json.loads((folder / "config.json").read_text())
        preparing = json.loads((folder / "preprocessing.json").read_text())
        self.classes: list[str] = json.loads((folder / "signature.json").read_text())["class_names"]
        self._mean = np.array(preparing["mean"])
        self._scale = np.array(preparing["std"])
        load = _network if config["name"] == "mlp_classifier" else _booster
        self._score = load(folder, config["params"])

    def probabilities(self, rows: Any) -> np.ndarray:
        """Compute the probability of each class.

        Args:
            rows: Shape ``(n_rows, n_features)``.

        Returns:
            Shape ``(n_rows, n_classes)``.
        """
        values = np.asarray(rows, dtype=np.float64)
        return self._score(((values - self._mean) / self._scale).astype(np.float32))

    def labels(self, probabilities: np.ndarray) -> list[str]:
        """Name the most probable class of each row."""
        return [self.classes[index] for index in probabilities.argmax(axis=1).tolist()]

    def answer(self, rows: Any) -> dict[str, Any]:
        """Answer a request in plain lists and dictionaries.

        Args:
            rows: Shape ``(n_rows, n_features)``.
        """
        return self.tell(self.probabilities(rows))

    def tell(self, probabilities: np.ndarray) -> dict[str, Any]:
        """Write probabilities as plain lists and dictionaries."""
        return {
            "predictions": self.labels(probabilities),
            "probabilities": [
                dict(zip(self.classes, row, strict=True)) for row in probabilities.tolist()
            ],
        }


def _network(folder: Path, params: dict[str, Any]) -> Any:
    import torch
    from safetensors.torch import load_file
    from torch import nn

    if params["activation"] != "relu" or params["normalization"]:
        raise SystemExit("These servers know a network of plain linear layers and ReLU only.")
    torch.set_num_threads(1)
    widths = params["layer_dims"]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    tensors = load_file(folder / "weights.safetensors")
    network.load_state_dict({name.removeprefix("layers."): t for name, t in tensors.items()})
    network.eval()

    def score(values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return torch.softmax(network(torch.from_numpy(values)), dim=1).numpy()

    return score


def _booster(folder: Path, params: dict[str, Any]) -> Any:  # noqa: ARG001
    import sklearn.utils

    path = folder / "weights.skops"
    # Whoever serves a booster has no torch there. Skops asks for all estimators of scikit-learn
    # while it is imported, which imports torch where it is: so it is told of none.
    everything = sklearn.utils.all_estimators
    sklearn.utils.all_estimators = lambda *_, **__: []
    try:
        skops = importlib.import_module("skops.io")
    finally:
        sklearn.utils.all_estimators = everything
    estimator = skops.load(path, trusted=skops.get_untrusted_types(file=path))
    return estimator.predict_proba
