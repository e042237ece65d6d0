"""Models as ONNX graphs, built from their saved arrays alone.

A server answers by such a graph: nothing that a training needs (PyTorch, scikit-learn) has to be
imported, and a single row costs microseconds. The arrays come out of a file, so each is checked
before a graph is made of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml_project_template.data.one_hot import OneHot
from ml_project_template.errors import ArtifactError
from ml_project_template.models._encoding import Encoding

__all__ = [
    "PREPARED",
    "SCORES",
    "SET_BYTES",
    "TARGET_MEAN",
    "TARGET_SCALE",
    "ScoreGraph",
    "check_trees",
    "flatten_trees",
    "forest_graph",
    "network_graph",
    "read_target",
    "split_by_level",
    "tabm_graph",
    "tree_graph",
]

PREPARED = "prepared"
"""The graph's input: prepared rows of shape ``(n_rows, n_features)``, float32."""

SCORES = "scores"
"""The graph's output: raw scores of shape ``(n_rows, n_classes)``, float64."""

SET_BYTES = 32
"""A set of levels: a bit for each code, the lowest bit of the first byte for code 0."""
TARGET_MEAN, TARGET_SCALE = "target.mean", "target.scale"
"""The tensors that bring a network's number into the units of its target."""

_TREES = ("feature", "threshold", "left", "right", "missing_left", "root", "leaf_value")
_TREE_OUTPUT = "trees"
_EPSILON = 1e-5  # of PyTorch's BatchNorm1d and LayerNorm
_BRANCH_LEQ, _BRANCH_MEMBER = 0, 6  # how a node of ONNX's TreeEnsemble splits
_DEEPEST = 1_000  # levels of a tree; ONNX Runtime, which goes down by recursion, took 10,000
_LARGEST = np.finfo(np.float64).max
_LARGEST_FLOAT32 = np.finfo(np.float32).max


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
    encoding: Encoding | None = None,
    regression: bool = False,
) -> ScoreGraph:
    """Write `FullyConnected` out as a graph.

    Args:
        layer_dims: Widths of the input, of each hidden layer and of the output.
        activation: After each hidden layer.
        normalization: ``batch``, ``layer`` or None.
        dropout: Whether there is a dropout layer, which has no part here but its place.
        tensors: The state of the network, by the names that PyTorch gives.
        encoding: What stands before; None leaves the features as they are.
        regression: Whether it gives a standardised number.

    Raises:
        ArtifactError: A tensor is missing or of another shape.
    """
    graph = _Network(tensors)
    value, place = graph.encode(encoding), 0
    for position, (inputs, outputs) in enumerate(itertools.pairwise(layer_dims)):
        value = graph.linear(value, f"layers.{place}", inputs, outputs)
        place += 1
        if position == len(layer_dims) - 2:
            break
        if normalization is not None:
            layer = f"layers.{place}"
            learned = [graph.tensor(f"{layer}.{part}", (outputs,)) for part in ("weight", "bias")]
            if normalization == "batch":
                parts = ("running_mean", "running_var")
                learned += [graph.tensor(f"{layer}.{part}", (outputs,)) for part in parts]
                value = graph.add("BatchNormalization", [value, *learned], epsilon=_EPSILON)
            else:
                value = graph.add(
                    "LayerNormalization", [value, *learned], epsilon=_EPSILON, axis=-1
                )
            place += 1
        value = graph.activate(value, activation)
        place += 2 if dropout else 1
    return graph.finish(value, regression=regression)


def tabm_graph(
    layer_dims: Sequence[int],
    activation: str,
    *,
    dropout: bool,
    members: int,
    variant: str,
    tensors: Mapping[str, NDArray[Any]],
    encoding: Encoding,
    regression: bool,
) -> ScoreGraph:
    """Write `TabM` out as a graph.

    Args:
        layer_dims: Widths of the input, of each hidden layer and of the output.
        activation: After each hidden layer.
        dropout: Whether there is a dropout layer, which has no part here but its place.
        members: How many members there are.
        variant: ``tabm`` or ``tabm-mini``.
        tensors: The state of the network, by the names that PyTorch gives.
        encoding: What stands before.
        regression: Whether it gives a standardised number.

    Raises:
        ArtifactError: A tensor is missing or of another shape.
    """
    graph = _Network(tensors)
    # Of shape (n_rows, 1, n_inputs): what is multiplied with a scale of each member spreads.
    value = graph.add("Unsqueeze", [graph.encode(encoding), graph.constant("one", [1])])
    if variant == "tabm-mini":
        scale = graph.tensor("input_scale", (members, layer_dims[0]))
        value = graph.add("Mul", [value, scale])
    place = 0
    for inputs, outputs in itertools.pairwise(layer_dims[:-1]):
        value = (
            graph.ensemble_linear(value, f"layers.{place}", inputs, outputs, members)
            if variant == "tabm"
            else graph.shared_linear(value, f"layers.{place}", inputs, outputs)
        )
        value = graph.activate(value, activation)
        place += 3 if dropout else 2
    inputs, outputs = layer_dims[-2:]
    value = graph.add("Transpose", [value], perm=[1, 0, 2])
    value = graph.add("MatMul", [value, graph.tensor("head", (members, inputs, outputs))])
    bias = graph.tensor("head_bias", (members, outputs))
    value = graph.add("Add", [value, graph.constant("head_bias_rows", tensors[bias][:, None])])
    # Of shape (members, n_rows, n_outputs).
    axis = graph.constant("zero", [0])
    if regression:
        value = graph.add("ReduceMean", [value, axis], keepdims=0)
    else:
        chances = graph.add("LogSoftmax", [value], axis=-1)
        total = graph.add("ReduceLogSumExp", [chances, axis], keepdims=0)
        count = graph.constant("log_members", np.float32(math.log(members)))
        value = graph.add("Sub", [total, count])
    return graph.finish(value, regression=regression)


def read_target(tensors: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    """Read what a regression's target was standardised with.

    Args:
        tensors: Those of ``weights.safetensors``.

    Returns:
        Mean and standard deviation.

    Raises:
        ArtifactError: They are missing, or no such numbers.
    """
    found = []
    for name in (TARGET_MEAN, TARGET_SCALE):
        array = tensors.get(name)
        if array is None or array.dtype != np.float64 or array.shape != (1,):
            raise ArtifactError(f"weights.safetensors: '{name}' must be float64[1].")
        found.append(float(array[0]))
    mean, scale = found
    if scale <= 0:
        raise ArtifactError(f"weights.safetensors: '{TARGET_SCALE}' must be positive, got {scale}.")
    return mean, scale


class _Network:
    """The graph of a network while it is written.

    Args:
        tensors: The state of the network, by the names that PyTorch gives.
    """

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._tensors = tensors
        self._nodes: list[Any] = []
        self._constants: dict[str, NDArray[Any]] = {}

    def tensor(self, name: str, shape: tuple[int, ...]) -> str:
        """Make a constant of a learned tensor, if it is one of that shape."""
        found = self._tensors.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            raise ArtifactError(f"weights.safetensors: '{name}' must be float32{list(shape)}.")
        self._constants[name] = found
        return name

    def constant(self, name: str, value: Any) -> str:
        """Make a constant of an array."""
        self._constants[name] = np.asarray(value)
        return name

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        from onnx import helper

        output = f"value_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def finish(self, value: str, *, regression: bool) -> ScoreGraph:
        """Lead to the scores, of a regression in the units of its target."""
        from onnx import helper

        if regression:
            mean, scale = read_target(self._tensors)
            value = self.add("Cast", [value], to=_double())
            value = self.add("Mul", [value, self.constant(TARGET_SCALE, np.float64(scale))])
            value = self.add("Add", [value, self.constant(TARGET_MEAN, np.float64(mean))])
        self._nodes.append(helper.make_node("Cast", [value], [SCORES], to=_double()))
        return ScoreGraph(self._nodes, self._constants)

    def linear(self, value: str, layer: str, inputs: int, outputs: int) -> str:
        """Write ``Linear`` for rows."""
        weight = self.tensor(f"{layer}.weight", (outputs, inputs))
        return self.add("Gemm", [value, weight, self.tensor(f"{layer}.bias", (outputs,))], transB=1)

    def shared_linear(self, value: str, layer: str, inputs: int, outputs: int) -> str:
        """Write ``Linear`` for the members of each row."""
        weight = self.tensor(f"{layer}.weight", (outputs, inputs))
        turned = self.constant(weight, self._constants[weight].T.copy())
        return self.add(
            "Add", [self.add("MatMul", [value, turned]), self.tensor(f"{layer}.bias", (outputs,))]
        )

    def ensemble_linear(
        self, value: str, layer: str, inputs: int, outputs: int, members: int
    ) -> str:
        """Write `EnsembleLinear`."""
        weight = self.tensor(f"{layer}.weight", (outputs, inputs))
        turned = self.constant(weight, self._constants[weight].T.copy())
        value = self.add("Mul", [value, self.tensor(f"{layer}.input_scale", (members, inputs))])
        value = self.add("MatMul", [value, turned])
        value = self.add("Mul", [value, self.tensor(f"{layer}.output_scale", (members, outputs))])
        return self.add("Add", [value, self.tensor(f"{layer}.bias", (members, outputs))])

    def activate(self, value: str, activation: str) -> str:
        """Write an activation."""
        if activation == "silu":
            return self.add("Mul", [value, self.add("Sigmoid", [value])])
        if activation == "leaky_relu":
            return self.add("LeakyRelu", [value], alpha=0.01)
        operators = {"elu": "Elu", "gelu": "Gelu", "relu": "Relu", "tanh": "Tanh"}
        return self.add(operators[activation], [value])

    def encode(self, encoding: Encoding | None) -> str:
        """Write `FeatureEncoder`."""
        if encoding is None or encoding.is_plain:
            return PREPARED
        parts = []
        if encoding.numbers:
            columns = self.constant("numbers", np.array(encoding.numbers, dtype=np.int64))
            numbers = self.add("Gather", [PREPARED, columns], axis=1)
            if encoding.numeric_embedding == "periodic":
                numbers = self._periodic(numbers, encoding)
            elif encoding.numeric_embedding == "piecewise_linear":
                numbers = self._piecewise_linear(numbers, encoding)
            parts.append(numbers)
        parts += [
            self._category(place, column, levels, encoding.embedding_width(levels))
            for place, (column, levels) in enumerate(encoding.categories)
        ]
        return self.add("Concat", parts, axis=1)

    def _category(self, place: int, column: int, levels: int, width: int | None) -> str:
        """Write `CategoryEmbedding`."""
        name = f"encoder.categories.{place}"
        length = levels if width is None else width
        offset = self._tensors[self.tensor(f"{name}.offset", (length,))]
        shares = self._tensors[self.tensor(f"{name}.shares", (levels,))]
        weight = np.eye(levels, dtype=np.float32)
        if width is not None:
            weight = self._tensors[self.tensor(f"{name}.weight", (levels, width))]
        table = np.concatenate([weight, (shares @ weight + offset)[None]])
        for part in ("offset", "shares", "weight"):
            self._constants.pop(f"{name}.{part}", None)
        codes = self.add(
            "Gather", [PREPARED, self.constant(f"{name}.column", np.int64(column))], axis=1
        )
        end = self.constant(f"{name}.levels", np.float32(levels))
        # Neither holds of what is missing, which is NaN.
        known = self.add(
            "And",
            [
                self.add("GreaterOrEqual", [codes, self.constant("first", np.float32(0))]),
                self.add("Less", [codes, end]),
            ],
        )
        rows = self.add("Cast", [self.add("Where", [known, codes, end])], to=_int64())
        return self.add("Gather", [self.constant(f"{name}.table", table), rows], axis=0)

    def _periodic(self, numbers: str, encoding: Encoding) -> str:
        """Write `PeriodicEmbedding`."""
        name, count = "encoder.numbers", len(encoding.numbers)
        frequencies, width = encoding.frequencies, encoding.frequency_width
        learned = self.tensor(f"{name}.frequencies", (count, frequencies))
        angular = self.constant(learned, np.float32(2 * math.pi) * self._tensors[learned])
        weight = self.tensor(f"{name}.weight", (count, 2 * frequencies, width))
        bias = self.tensor(f"{name}.bias", (count, width))
        spread = self.add("Unsqueeze", [numbers, self.constant("two", [2])])
        angles = self.add("Mul", [spread, angular])
        waves = self.add("Concat", [self.add("Cos", [angles]), self.add("Sin", [angles])], axis=2)
        turned = self.add("Transpose", [waves], perm=[1, 0, 2])
        linear = self.add("Transpose", [self.add("MatMul", [turned, weight])], perm=[1, 0, 2])
        values = self.add("Relu", [self.add("Add", [linear, bias])])
        return self.add("Flatten", [values], axis=1)

    def _piecewise_linear(self, numbers: str, encoding: Encoding) -> str:
        """Write `PiecewiseLinearEncoding`."""
        count, bins = len(encoding.numbers), encoding.bins
        learned = self.tensor("encoder.numbers.edges", (count, bins + 1))
        edges = self._constants.pop(learned)
        size = np.diff(edges, axis=1)
        real = size > 0
        places = np.arange(bins)
        is_last = places == real.sum(axis=1, keepdims=True) - 1
        limits = {
            "start": edges[:, :-1],
            "size": np.where(real, size, np.float32(1)),
            "lowest": np.where(places == 0, -_LARGEST_FLOAT32, np.float32(0)),
            "highest": np.where(is_last, _LARGEST_FLOAT32, np.float32(1)),
            "is_real": real,
            "nothing": np.zeros(1, dtype=np.float32),
        }
        names = {key: self.constant(f"bins.{key}", array) for key, array in limits.items()}
        spread = self.add("Unsqueeze", [numbers, self.constant("two", [2])])
        way = self.add("Div", [self.add("Sub", [spread, names["start"]]), names["size"]])
        way = self.add("Min", [self.add("Max", [way, names["lowest"]]), names["highest"]])
        encoded = self.add("Where", [names["is_real"], way, names["nothing"]])
        return self.add("Flatten", [encoded], axis=1)


def flatten_trees(
    trees: Sequence[Mapping[str, NDArray[Any]]], baseline: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """Put the trees of a booster one behind the other, as plain arrays.

    Args:
        trees: For each tree, stage by stage and within a stage class by class, arrays of shape
            ``(n_nodes,)``: ``leaf`` (bool), ``feature``, ``threshold``, ``left``, ``right``,
            ``missing_left`` and ``value``; the root is first. Optionally ``levels`` of shape
            ``(n_nodes, SET_BYTES)``, uint8: the levels of a category that go to the left; empty
            where a threshold splits.
        baseline: What the trees' values are added to, of shape ``(n_targets,)``.

    Returns:
        ``trees.<name>`` to array. Inner nodes only, of all trees in a row: a child that is not
        negative is the place of a node, and ``~child`` is the place of a leaf's value. A tree
        without a split has a node whose children are both its leaf. If any node splits by levels,
        ``trees.by_level`` tells which, and ``trees.levels`` holds their sets, one after the other.
    """
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _TREES}
    sets: list[NDArray[np.uint8]] = []
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
        empty = np.zeros((len(threshold), SET_BYTES), dtype=np.uint8)
        sets.append(tree["levels"][inner] if split and "levels" in tree else empty)
        n_nodes += len(threshold)
        n_leaves += int(leaf.sum())
    kinds = {"threshold": np.float64, "leaf_value": np.float64, "missing_left": np.uint8}
    levels = np.concatenate(sets)
    by_level = np.any(levels != 0, axis=1)
    categorical: dict[str, NDArray[Any]] = {
        "trees.by_level": by_level.astype(np.uint8),
        "trees.levels": levels[by_level].ravel(),
    }
    return {
        **{
            f"trees.{name}": np.concatenate(arrays).astype(kinds.get(name, np.int32))
            for name, arrays in parts.items()
        },
        "trees.baseline": baseline.astype(np.float64),
        **(categorical if by_level.any() else {}),
    }


def split_by_level(tree: Mapping[str, NDArray[Any]], encoder: OneHot) -> dict[str, NDArray[Any]]:
    """Turn splits of columns of zeros and ones back into splits of the categories they stand for.

    Args:
        tree: A tree as `flatten_trees` takes it, grown on the columns of ``encoder``.
        encoder: What made the columns.

    Returns:
        The tree of the features: the level itself goes to the left, all else and what is missing
        to the right.
    """
    if not any(encoder.cardinalities):
        return dict(tree)
    inner = ~tree["leaf"].astype(bool)
    # A leaf names no column.
    column = np.where(inner, tree["feature"], 0)
    code = encoder.codes[column]
    by_level = inner & (code >= 0)
    levels = np.zeros((len(inner), SET_BYTES), dtype=np.uint8)
    levels[by_level, code[by_level] // 8] = 1 << (code[by_level] % 8)
    return {
        **tree,
        "feature": encoder.sources[column],
        "left": np.where(by_level, tree["right"], tree["left"]),
        "right": np.where(by_level, tree["left"], tree["right"]),
        "missing_left": np.where(by_level, 0, tree["missing_left"]),
        "levels": levels,
    }


def check_trees(
    tensors: Mapping[str, NDArray[Any]], n_features: int, num_classes: int
) -> dict[str, NDArray[Any]]:
    """Check flattened trees that came out of a file.

    Args:
        tensors: What `flatten_trees` gave.
        n_features: How many features the model takes.
        num_classes: How many classes it knows; 0 for a regression.

    Returns:
        The arrays by name, without their prefix; ``levels`` of shape
        ``(n_nodes_by_level, SET_BYTES)``.

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
    targets = 1 if num_classes in (0, 2) else num_classes
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
    # An answer goes where the tree of its leaf stands for.
    tree_of_node, tree_of_leaf = _tree_of_node(trees), _tree_of_leaf(trees)
    for side in ("left", "right"):
        leaf = trees[side] < 0
        own = tree_of_leaf[~trees[side][leaf]] == tree_of_node[leaf]
        require(bool(own.all()), "a leaf is of two trees")
    require(
        bool(((trees["feature"] >= 0) & (trees["feature"] < n_features)).all()),
        "a feature is missing",
    )
    require(bool((trees["missing_left"] <= 1).all()), "a default direction is neither 0 nor 1")
    by_level = tensors.get("trees.by_level", np.zeros(n_nodes, dtype=np.uint8))
    levels = tensors.get("trees.levels", np.zeros(0, dtype=np.uint8))
    require(
        by_level.shape == (n_nodes,) and by_level.dtype == np.uint8 and bool((by_level <= 1).all()),
        "it is not told which nodes split by levels",
    )
    require(
        levels.dtype == np.uint8 and levels.shape == (int(by_level.sum()) * SET_BYTES,),
        "the sets of levels have another length",
    )
    levels = levels.reshape(-1, SET_BYTES)
    require(bool(levels.any(axis=1).all()), "a set of levels is empty")
    return {**trees, "by_level": by_level, "levels": levels}


def tree_graph(
    trees: Mapping[str, NDArray[Any]], answer: Literal["scores", "sum", "exponential"] = "scores"
) -> ScoreGraph | None:
    """Make a graph of checked trees, exact to the order of the sums.

    Args:
        trees: What `check_trees` gave.
        answer: ``scores`` of classes, where the one of two classes, the log odds ``s``, is split
            into ``(-s/2, s/2)``; or a number, which is the ``sum`` or its ``exponential``.

    Returns:
        The graph; None if a tree is too deep for ONNX Runtime.
    """
    from onnx import helper

    if _is_too_deep(trees):
        return None
    targets = len(trees["baseline"])
    nodes = _ensemble(trees, _tree_of_leaf(trees) % targets, targets, trees["leaf_value"])
    constants = {"baseline": trees["baseline"][None, :]}
    done = answer == "sum" or (answer == "scores" and targets > 1)
    summed = SCORES if done else "summed"
    nodes.append(helper.make_node("Add", [_TREE_OUTPUT, "baseline"], [summed]))
    if answer == "exponential":
        nodes.append(helper.make_node("Exp", [summed], [SCORES]))
    elif not done:
        constants["halves"] = np.array([[-0.5, 0.5]])
        nodes.append(helper.make_node("Mul", [summed, "halves"], [SCORES]))
    return ScoreGraph(nodes, constants)


def forest_graph(
    trees: Mapping[str, NDArray[Any]], shares: NDArray[np.float64], smallest: float
) -> ScoreGraph | None:
    """Make a graph of checked trees whose leaves hold a probability for each class.

    A leaf of ONNX has one number. So each tree tells the place of its leaf, and the probabilities
    are looked up.

    Args:
        trees: What `check_trees` gave.
        shares: The probabilities of each leaf, of shape ``(n_leaves, n_classes)``.
        smallest: Smaller mean probabilities are taken for this one.

    Returns:
        The graph, to the logarithms of the mean probabilities; None if a tree is too deep for ONNX
        Runtime.
    """
    from onnx import TensorProto, helper

    if _is_too_deep(trees):
        return None
    places = np.arange(len(trees["leaf_value"]), dtype=np.float64)
    constants = {"shares": shares, "axis": np.array([1]), "smallest": np.array(smallest)}
    nodes = [
        *_ensemble(trees, _tree_of_leaf(trees), len(trees["root"]), places),
        helper.make_node("Cast", [_TREE_OUTPUT], ["leaves"], to=TensorProto.INT64),
        helper.make_node("Gather", ["shares", "leaves"], ["votes"], axis=0),
        helper.make_node("ReduceMean", ["votes", "axis"], ["means"], keepdims=0),
        helper.make_node("Max", ["means", "smallest"], ["bounded"]),
        helper.make_node("Log", ["bounded"], [SCORES]),
    ]
    return ScoreGraph(nodes, constants)


def _tree_of_node(trees: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Say which tree each node belongs to."""
    ends = np.append(trees["root"][1:], len(trees["feature"]))
    return np.repeat(np.arange(len(trees["root"])), ends - trees["root"])


def _tree_of_leaf(trees: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Say which tree each leaf belongs to: the one whose nodes point to it."""
    tree_of_node = _tree_of_node(trees)
    tree_of_leaf = np.zeros(len(trees["leaf_value"]), dtype=np.int64)
    for side in ("left", "right"):
        leaf = trees[side] < 0
        tree_of_leaf[~trees[side][leaf]] = tree_of_node[leaf]
    return tree_of_leaf


def _ensemble(
    trees: Mapping[str, NDArray[Any]],
    target: NDArray[np.int64],
    n_targets: int,
    leaf_weights: NDArray[np.float64],
) -> list[Any]:
    """Write trees as nodes that lead from `PREPARED` to `_TREE_OUTPUT`.

    Args:
        trees: What `check_trees` gave.
        target: The column that each leaf counts for.
        n_targets: How many columns there are.
        leaf_weights: What each leaf adds to its column.
    """
    from onnx import TensorProto, helper

    def children(side: str) -> dict[str, Any]:
        child = trees[side].astype(np.int64)
        name = "true" if side == "left" else "false"
        return {
            f"nodes_{name}nodeids": np.where(child < 0, ~child, child).tolist(),
            f"nodes_{name}leafs": (child < 0).astype(np.int64).tolist(),
        }

    def doubles(name: str, values: NDArray[np.float64]) -> Any:
        return helper.make_tensor(name, TensorProto.DOUBLE, [len(values)], values.tolist())

    memberships = {}
    if len(trees["levels"]):
        # Set after set, each with a NaN behind it.
        members = np.unpackbits(trees["levels"], axis=1, bitorder="little")
        ended = np.column_stack([members, np.ones(len(members), dtype=np.uint8)])
        codes = np.append(np.arange(members.shape[1], dtype=np.float64), np.nan)
        memberships["membership_values"] = doubles("members", codes[np.nonzero(ended)[1]])
    modes = np.where(trees["by_level"] == 1, _BRANCH_MEMBER, _BRANCH_LEQ)
    return [
        # Thresholds lie between float32 values: compared as float64 they split as in the fit.
        helper.make_node("Cast", [PREPARED], ["prepared_double"], to=_double()),
        helper.make_node(
            "TreeEnsemble",
            ["prepared_double"],
            [_TREE_OUTPUT],
            domain="ai.onnx.ml",
            n_targets=n_targets,
            aggregate_function=1,  # the sum
            post_transform=0,  # none
            tree_roots=trees["root"].tolist(),
            nodes_featureids=trees["feature"].tolist(),
            nodes_splits=doubles("threshold", trees["threshold"]),
            nodes_modes=helper.make_tensor(
                "modes", TensorProto.UINT8, [len(modes)], modes.tolist()
            ),
            nodes_missing_value_tracks_true=trees["missing_left"].tolist(),
            **children("left"),
            **children("right"),
            leaf_targetids=target.tolist(),
            leaf_weights=doubles("leaf_value", leaf_weights),
            **memberships,
        ),
    ]


def _is_too_deep(trees: Mapping[str, NDArray[Any]]) -> bool:
    # ONNX Runtime makes a chain of comparisons of a set, one for each level in it.
    steps = np.ones(len(trees["feature"]), dtype=np.int64)
    steps[trees["by_level"] == 1] = np.bitwise_count(trees["levels"]).sum(axis=1, dtype=np.int64)
    level = trees["root"]
    depth = steps[level]
    while len(level):
        if depth.max() > _DEEPEST:
            return True
        children = np.concatenate([trees["left"][level], trees["right"][level]])
        inner = children >= 0
        level = children[inner]
        depth = np.concatenate([depth, depth])[inner] + steps[level]
    return False


def _double() -> int:
    from onnx import TensorProto

    kind: int = TensorProto.DOUBLE
    return kind


def _int64() -> int:
    from onnx import TensorProto

    kind: int = TensorProto.INT64
    return kind
