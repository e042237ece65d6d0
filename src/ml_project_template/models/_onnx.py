"""Models as ONNX graphs, built from their saved arrays alone.

A server answers by such a graph: nothing that a training needs (PyTorch, scikit-learn) has to be
imported, and a single row costs microseconds. The arrays come out of a file, so each is checked
before a graph is made of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_project_template.errors import ArtifactError

__all__ = [
    "PREPARED",
    "SCORES",
    "ScoreGraph",
    "check_trees",
    "flatten_trees",
    "network_graph",
    "tree_graph",
]

PREPARED = "prepared"
"""The graph's input: prepared rows of shape ``(n_rows, n_features)``, float32."""

SCORES = "scores"
"""The graph's output: raw scores of shape ``(n_rows, n_classes)``, float64."""

_TREES = ("feature", "threshold", "left", "right", "missing_left", "root", "leaf_value")
_EPSILON = 1e-5  # of PyTorch's BatchNorm1d and LayerNorm
_DEEPEST = 1_000  # levels of a tree; ONNX Runtime, which goes down by recursion, took 10,000
_LARGEST = np.finfo(np.float64).max


@dataclass(frozen=True, slots=True)
class ScoreGraph:
    """The nodes that lead from `PREPARED` to `SCORES`, and the constants they use.

    Attributes:
        nodes: ONNX nodes in their order, of opset 20 and ``ai.onnx.ml`` 5.
        constants: Arrays by the name that the nodes call them.
    """

    nodes: list[Any]
    constants: dict[str, NDArray[Any]]


def network_graph(
    layer_dims: Sequence[int],
    activation: str,
    normalization: str | None,
    *,
    dropout: bool,
    tensors: Mapping[str, NDArray[Any]],
) -> ScoreGraph:
    """Write `FullyConnected` out as a graph.

    Args:
        layer_dims: Widths of the input, of each hidden layer and of the output.
        activation: After each hidden layer.
        normalization: ``batch``, ``layer`` or None.
        dropout: Whether there is a dropout layer, which has no part here but its place.
        tensors: The state of the network, by the names that PyTorch gives.

    Raises:
        ArtifactError: A tensor is missing or of another shape.
    """
    from onnx import helper

    constants: dict[str, NDArray[Any]] = {}
    nodes: list[Any] = []

    def constant(name: str, shape: tuple[int, ...]) -> str:
        found = tensors.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            raise ArtifactError(f"weights.safetensors: '{name}' must be float32{list(shape)}.")
        constants[name] = found
        return name

    def add(operator: str, inputs: list[str], **attributes: Any) -> str:
        output = f"value_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    value, place = PREPARED, 0
    for position, (inputs, outputs) in enumerate(itertools.pairwise(layer_dims)):
        layer = f"layers.{place}"
        weight = constant(f"{layer}.weight", (outputs, inputs))
        value = add("Gemm", [value, weight, constant(f"{layer}.bias", (outputs,))], transB=1)
        place += 1
        if position == len(layer_dims) - 2:
            break
        if normalization is not None:
            layer = f"layers.{place}"
            learned = [constant(f"{layer}.{part}", (outputs,)) for part in ("weight", "bias")]
            if normalization == "batch":
                parts = ("running_mean", "running_var")
                learned += [constant(f"{layer}.{part}", (outputs,)) for part in parts]
                value = add("BatchNormalization", [value, *learned], epsilon=_EPSILON)
            else:
                value = add("LayerNormalization", [value, *learned], epsilon=_EPSILON, axis=-1)
            place += 1
        if activation == "silu":
            value = add("Mul", [value, add("Sigmoid", [value])])
        elif activation == "leaky_relu":
            value = add("LeakyRelu", [value], alpha=0.01)
        else:
            value = add(
                {"elu": "Elu", "gelu": "Gelu", "relu": "Relu", "tanh": "Tanh"}[activation], [value]
            )
        place += 2 if dropout else 1
    nodes.append(helper.make_node("Cast", [value], [SCORES], to=_double()))
    return ScoreGraph(nodes, constants)


def flatten_trees(
    trees: Sequence[Mapping[str, NDArray[Any]]], baseline: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """Put the trees of a booster one behind the other, as plain arrays.

    Args:
        trees: For each tree, stage by stage and within a stage class by class, arrays of shape
            ``(n_nodes,)``: ``leaf`` (bool), ``feature``, ``threshold``, ``left``, ``right``,
            ``missing_left`` and ``value``; the root is first.
        baseline: What the trees' values are added to, of shape ``(n_targets,)``.

    Returns:
        ``trees.<name>`` to array. Inner nodes only, of all trees in a row: a child that is not
        negative is the place of a node, and ``~child`` is the place of a leaf's value. A tree
        without a split has a node whose children are both its leaf.
    """
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _TREES}
    n_nodes = n_leaves = 0
    for tree in trees:
        leaf = tree["leaf"].astype(bool)
        places = np.where(
            leaf, ~(np.cumsum(leaf) - 1 + n_leaves), np.cumsum(~leaf) - 1 + n_nodes
        ).astype(np.int32)
        inner = ~leaf
        split = bool(inner.any())
        threshold = tree["threshold"][inner] if split else np.zeros(1)
        added = {
            "feature": tree["feature"][inner] if split else np.zeros(1),
            # No feature is larger than the largest float, so it stands for "infinite" as well.
            "threshold": np.clip(threshold, -_LARGEST, _LARGEST),
            "left": places[tree["left"][inner]] if split else places,
            "right": places[tree["right"][inner]] if split else places,
            "missing_left": tree["missing_left"][inner] if split else np.zeros(1),
            "root": np.array([n_nodes]),
            "leaf_value": tree["value"][leaf],
        }
        for name, array in added.items():
            parts[name].append(array)
        n_nodes += len(threshold)
        n_leaves += int(leaf.sum())
    kinds = {"threshold": np.float64, "leaf_value": np.float64, "missing_left": np.uint8}
    return {
        **{
            f"trees.{name}": np.concatenate(arrays).astype(kinds.get(name, np.int32))
            for name, arrays in parts.items()
        },
        "trees.baseline": baseline.astype(np.float64),
    }


def check_trees(
    tensors: Mapping[str, NDArray[Any]], n_features: int, num_classes: int
) -> dict[str, NDArray[Any]]:
    """Check flattened trees that came out of a file.

    Args:
        tensors: What `flatten_trees` gave.
        n_features: How many features the model takes.
        num_classes: How many classes it knows.

    Returns:
        The arrays by name, without their prefix.

    Raises:
        ArtifactError: An array is missing or of another kind, or a walk from a root would leave
            the trees or never end.
    """

    def require(condition: bool, problem: str) -> None:
        if not condition:
            raise ArtifactError(f"inference.safetensors: the trees can't be used: {problem}.")

    kinds = {
        **dict.fromkeys(("feature", "left", "right", "root"), np.int32),
        **dict.fromkeys(("threshold", "leaf_value", "baseline"), np.float64),
        "missing_left": np.uint8,
    }
    trees: dict[str, NDArray[Any]] = {}
    for name, kind in kinds.items():
        array = tensors.get(f"trees.{name}")
        require(array is not None and array.dtype == kind and array.ndim == 1, f"no array '{name}'")
        assert array is not None
        trees[name] = array
    n_nodes, n_leaves = len(trees["feature"]), len(trees["leaf_value"])
    per_node = ("feature", "threshold", "left", "right", "missing_left")
    require(n_nodes > 0 and all(len(trees[name]) == n_nodes for name in per_node), "lengths differ")
    targets = 1 if num_classes == 2 else num_classes
    require(len(trees["baseline"]) == targets, "the baseline has another length")
    roots = trees["root"]
    require(len(roots) > 0 and len(roots) % targets == 0, "a stage is incomplete")
    ends = np.append(roots[1:], n_nodes)
    require(roots[0] == 0 and bool((ends > roots).all()), "a root is out of place")
    # A tree's nodes stand in a row, so each walk that goes forward within its own tree ends.
    places = np.arange(n_nodes)
    own_end = np.repeat(ends, ends - roots)
    parents = np.zeros(n_nodes, dtype=np.int64)
    parents[roots] = 1
    for side in ("left", "right"):
        child = trees[side].astype(np.int64)
        inner = child >= 0
        require(
            bool(((child[inner] > places[inner]) & (child[inner] < own_end[inner])).all()),
            "a child is not after its parent",
        )
        require(bool((~child[~inner] < n_leaves).all()), "a leaf is missing")
        parents += np.bincount(child[inner], minlength=n_nodes)
    require(bool((parents == 1).all()), "a node has not one parent")
    require(
        bool(((trees["feature"] >= 0) & (trees["feature"] < n_features)).all()),
        "a feature is missing",
    )
    require(bool((trees["missing_left"] <= 1).all()), "a default direction is neither 0 nor 1")
    return trees


def tree_graph(trees: Mapping[str, NDArray[Any]]) -> ScoreGraph | None:
    """Make a graph of checked trees, exact to the order of the sums.

    Args:
        trees: What `check_trees` gave. Of two classes a booster has one score ``s``, the log
            odds, which is split into ``(-s/2, s/2)``.

    Returns:
        The graph; None if a tree is too deep for ONNX Runtime.
    """
    from onnx import TensorProto, helper

    if _is_too_deep(trees):
        return None

    targets = len(trees["baseline"])
    n_leaves = len(trees["leaf_value"])
    # The class of a leaf is that of its tree: the one whose nodes point to it.
    tree_of_node = np.repeat(
        np.arange(len(trees["root"])), np.diff(np.append(trees["root"], len(trees["feature"])))
    )
    target = np.zeros(n_leaves, dtype=np.int64)
    for side in ("left", "right"):
        leaf = trees[side] < 0
        target[~trees[side][leaf]] = tree_of_node[leaf] % targets

    def children(side: str) -> dict[str, Any]:
        child = trees[side].astype(np.int64)
        name = "true" if side == "left" else "false"
        return {
            f"nodes_{name}nodeids": np.where(child < 0, ~child, child).tolist(),
            f"nodes_{name}leafs": (child < 0).astype(np.int64).tolist(),
        }

    def doubles(name: str) -> Any:
        return helper.make_tensor(
            name, TensorProto.DOUBLE, [len(trees[name])], trees[name].tolist()
        )

    n_nodes = len(trees["feature"])
    nodes = [
        # Thresholds lie between float32 values: compared as float64 they split as in the fit.
        helper.make_node("Cast", [PREPARED], ["prepared_double"], to=_double()),
        helper.make_node(
            "TreeEnsemble",
            ["prepared_double"],
            ["trees"],
            domain="ai.onnx.ml",
            n_targets=targets,
            aggregate_function=1,  # the sum
            post_transform=0,  # none
            tree_roots=trees["root"].tolist(),
            nodes_featureids=trees["feature"].tolist(),
            nodes_splits=doubles("threshold"),
            nodes_modes=helper.make_tensor("modes", TensorProto.UINT8, [n_nodes], [0] * n_nodes),
            nodes_missing_value_tracks_true=trees["missing_left"].tolist(),
            **children("left"),
            **children("right"),
            leaf_targetids=target.tolist(),
            leaf_weights=doubles("leaf_value"),
        ),
    ]
    constants = {"baseline": trees["baseline"][None, :]}
    summed = SCORES if targets > 1 else "log_odds"
    nodes.append(helper.make_node("Add", ["trees", "baseline"], [summed]))
    if targets == 1:
        constants["halves"] = np.array([[-0.5, 0.5]])
        nodes.append(helper.make_node("Mul", [summed, "halves"], [SCORES]))
    return ScoreGraph(nodes, constants)


def _is_too_deep(trees: Mapping[str, NDArray[Any]]) -> bool:
    level = trees["root"]
    for _ in range(_DEEPEST):
        children = np.concatenate([trees["left"][level], trees["right"][level]])
        level = children[children >= 0]
        if len(level) == 0:
            return False
    return True


def _double() -> int:
    from onnx import TensorProto

    kind: int = TensorProto.DOUBLE
    return kind
