"""Graphs of arrays, node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_project_template.errors import ArtifactError
from ml_project_template.models._onnx import (
    ScoreGraph,
    check_trees,
    flatten_trees,
    network_graph,
    tree_graph,
)

Arrays = dict[str, NDArray[Any]]


def _tree(**changes: Any) -> Arrays:
    """A root with a leaf on its left, and on its right a node with two leaves."""
    tree = {
        "leaf": [0, 1, 0, 1, 1],
        "feature": [1, 0, 0, 0, 0],
        "threshold": [0.5, 0.0, np.inf, 0.0, 0.0],
        "left": [1, 0, 3, 0, 0],
        "right": [2, 0, 4, 0, 0],
        "missing_left": [1, 0, 0, 0, 0],
        "value": [0.0, 10.0, 0.0, 20.0, 30.0],
    }
    return {name: np.asarray(array) for name, array in {**tree, **changes}.items()}


def _leaf(value: float) -> Arrays:
    """A tree without a split."""
    arrays = {name: np.zeros(1) for name in _tree()}
    return {**arrays, "leaf": np.ones(1), "value": np.array([value])}


def _scores(graph: ScoreGraph | None, rows: Any) -> NDArray[np.float64]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    assert graph is not None
    features = np.asarray(rows, dtype=np.float32)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "scores",
            [helper.make_tensor_value_info("prepared", TensorProto.FLOAT, [None, None])],
            [helper.make_tensor_value_info("scores", TensorProto.DOUBLE, [None, None])],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 5)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    scores: NDArray[np.float64] = session.run(["scores"], {"prepared": features})[0]
    return scores


def test_trees_are_put_one_behind_the_other() -> None:
    flat = flatten_trees([_tree(), _leaf(7.0), _tree()], np.array([0.5]))
    largest = np.finfo(np.float64).max
    expected = {
        "feature": [1, 0, 0, 1, 0],
        "threshold": [0.5, largest, 0.0, 0.5, largest],
        "left": [~0, ~1, ~3, ~4, ~5],
        "right": [1, ~2, ~3, 4, ~6],
        "missing_left": [1, 0, 0, 1, 0],
        "root": [0, 2, 3],
        "leaf_value": [10, 20, 30, 7, 10, 20, 30],
        "baseline": [0.5],
    }
    assert flat.keys() == {f"trees.{name}" for name in expected}
    for name, array in expected.items():
        assert flat[f"trees.{name}"].tolist() == array, name
        assert np.isfinite(flat[f"trees.{name}"]).all()


def test_a_walk_goes_left_up_to_the_threshold_and_as_told_where_a_value_is_missing() -> None:
    flat = flatten_trees([_tree(), _leaf(7.0)], np.array([0.5]))
    above, gap = np.nextafter(np.float32(0.5), np.float32(1)), np.nan
    largest = np.finfo(np.float32).max
    rows = [[0, 0.5], [0, above], [largest, 1], [-largest, -1], [gap, 1], [gap, gap], [0, gap]]
    scores = _scores(tree_graph(check_trees(flat, 2, 2)), rows)
    odds = np.array([10, 20, 20, 10, 30, 10, 10]) + 7.5
    np.testing.assert_array_equal(scores, np.column_stack([-odds / 2, odds / 2]))


def test_each_tree_of_a_stage_counts_for_its_own_class() -> None:
    stages = [_tree(), _leaf(1.0), _leaf(2.0), _leaf(4.0), _tree(), _leaf(8.0)]
    flat = flatten_trees(stages, np.array([0.1, 0.2, 0.3]))
    scores = _scores(tree_graph(check_trees(flat, 2, 3)), [[0, 0], [0, 1]])
    np.testing.assert_allclose(scores, [[14.1, 11.2, 10.3], [24.1, 21.2, 10.3]])


def _chain(length: int) -> Arrays:
    """A tree that goes down to the right only."""
    places = np.arange(length, dtype=np.int32)
    return {
        "trees.feature": np.zeros(length, np.int32),
        "trees.threshold": places.astype(np.float64),
        "trees.left": np.full(length, ~0, np.int32),
        "trees.right": np.append(places[1:], np.int32(~1)).astype(np.int32),
        "trees.missing_left": np.zeros(length, np.uint8),
        "trees.root": np.zeros(1, np.int32),
        "trees.leaf_value": np.array([1.0, 2.0]),
        "trees.baseline": np.zeros(1),
    }


def test_a_tree_that_is_too_deep_for_onnx_runtime_has_no_graph() -> None:
    deep = check_trees(_chain(900), 1, 2)
    np.testing.assert_allclose(_scores(tree_graph(deep), [[0], [1e4]])[:, 1], [0.5, 1])
    assert tree_graph(check_trees(_chain(100_000), 1, 2)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left": [1, ~0], "right": [1, ~1]}, "a node has not one parent"),
        ({"left": [~0, ~0], "right": [~0, ~1]}, "a node has not one parent"),
        ({"left": [0, ~0]}, "a child is not after its parent"),
        ({"left": [1, 1]}, "a child is not after its parent"),
        ({"left": [2, ~0]}, "a child is not after its parent"),
        ({"left": [1, ~2]}, "a leaf is missing"),
        ({"root": [0, 1]}, "a child is not after its parent"),
        ({"left": [~0, ~0], "right": [~0, ~1], "root": [0, 1]}, "a leaf is of two trees"),
        ({"root": []}, "a stage is incomplete"),
        ({"root": [0, 0]}, "a root is out of place"),
        ({"root": [0, 2]}, "a root is out of place"),
        ({"root": [-1]}, "a root is out of place"),
        ({"feature": [0, 1]}, "a feature is missing"),
        ({"feature": [0]}, "lengths differ"),
        ({"missing_left": [0, 255]}, "neither 0 nor 1"),
    ],
)
def test_trees_that_a_walk_would_leave_are_refused(
    changes: dict[str, list[int]], message: str
) -> None:
    arrays = {**_chain(2), "trees.left": np.array([1, ~0], np.int32)}
    arrays["trees.right"] = np.array([~0, ~1], np.int32)
    check_trees(arrays, 1, 2)
    for name, values in changes.items():
        kind = arrays[f"trees.{name}"].dtype
        arrays[f"trees.{name}"] = np.array(values, dtype=kind)
    with pytest.raises(ArtifactError, match=message):
        check_trees(arrays, 1, 2)


def test_a_stage_needs_a_tree_for_each_class() -> None:
    flat = flatten_trees([_tree(), _leaf(1.0)], np.zeros(3))
    with pytest.raises(ArtifactError, match="a stage is incomplete"):
        check_trees(flat, 2, 3)


def _network() -> Arrays:
    rng = np.random.default_rng(0)
    shapes = {
        "layers.0.weight": (3, 2),
        "layers.0.bias": (3,),
        "layers.1.weight": (3,),
        "layers.1.bias": (3,),
        "layers.1.running_mean": (3,),
        "layers.1.running_var": (3,),
        "layers.4.weight": (2, 3),
        "layers.4.bias": (2,),
    }
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["layers.1.running_var"] = np.abs(tensors["layers.1.running_var"])
    return tensors


def _network_scores(tensors: Arrays, rows: Any) -> NDArray[np.float64]:
    graph = network_graph([2, 3, 2], "relu", "batch", dropout=True, tensors=tensors)
    return _scores(graph, rows)


def test_a_network_is_what_its_formula_says() -> None:
    tensors = _network()
    rows = np.random.default_rng(1).normal(size=(7, 2)).astype(np.float32)
    hidden: NDArray[Any] = rows @ tensors["layers.0.weight"].T + tensors["layers.0.bias"]
    hidden = (hidden - tensors["layers.1.running_mean"]) / np.sqrt(
        tensors["layers.1.running_var"] + 1e-5
    )
    hidden = np.maximum(hidden * tensors["layers.1.weight"] + tensors["layers.1.bias"], 0)
    expected = hidden @ tensors["layers.4.weight"].T + tensors["layers.4.bias"]
    np.testing.assert_allclose(_network_scores(tensors, rows), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", _network())
@pytest.mark.parametrize("what", ["missing", "longer", "float64"])
def test_a_tensor_that_is_not_the_networks_is_refused(name: str, what: str) -> None:
    tensors = _network()
    if what == "missing":
        del tensors[name]
    elif what == "longer":
        tensors[name] = np.concatenate([tensors[name], tensors[name]])
    else:
        tensors[name] = tensors[name].astype(np.float64)
    with pytest.raises(ArtifactError, match=f"'{name}' must be float32"):
        _network_scores(tensors, [[0, 0]])
