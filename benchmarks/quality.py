"""How well the models predict, beside the same estimators used directly from their own libraries.

    python -m benchmarks.quality --seeds 5

Each data set is split anew for each seed, and both sides learn from the same rows with the same
seed and the same settings: ours by `BaseModel.train` on rows that our `Preprocessor` has prepared,
theirs by `fit` of an estimator of scikit-learn behind its own `StandardScaler`. They are compared
by the accuracy on the test rows, or by the root of the mean squared error. *Equal* means that the
mean difference over the seeds is no larger than a paired t-test (95 %) has it by chance, or is
below a thousandth of the value itself.

The command fails where ours is worse.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

# Before the libraries are loaded: on small tables several threads take longer than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from sklearn import datasets

from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.models import ModelRegistry

Verdict = Literal["equal", "better", "worse"]

TEST_SIZE = 0.25
CONFIDENCE = 0.95
NEGLIGIBLE = 1e-3  # of the value


@dataclass(frozen=True)
class Pair:
    """A model and what it is held against.

    Attributes:
        arguments: Of our constructor.
        training: Of our fit.
        theirs: Makes the estimator of the other library for a task and a seed.
    """

    arguments: dict[str, Any]
    training: dict[str, Any]
    theirs: Callable[[str, int], Any]


@dataclass(frozen=True)
class Row:
    """A line of the table: a model on a data set.

    Attributes:
        data: The data set.
        model: The model.
        metric: ``accuracy`` or ``rmse``, on the test rows.
        ours: Its value for each seed.
        theirs: The same of the other library.
        verdict: How the two compare.
    """

    data: str
    model: str
    metric: str
    ours: list[float]
    theirs: list[float]
    verdict: Verdict


def _linear(task: str, seed: int) -> Any:  # noqa: ARG001 - nothing is drawn
    from sklearn.linear_model import LogisticRegression, Ridge

    return LogisticRegression(max_iter=2_000) if task == "classification" else Ridge()


def _boosting(task: str, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    settings = {"max_iter": 60, "min_samples_leaf": 10, "early_stopping": False}
    if task == "classification":
        return HistGradientBoostingClassifier(**settings, random_state=seed)
    return HistGradientBoostingRegressor(**settings, random_state=seed)


def _forest(task: str, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    made = RandomForestClassifier if task == "classification" else RandomForestRegressor
    return made(n_estimators=60, random_state=seed)


def _xgboost(task: str, seed: int) -> Any:
    import xgboost

    made = xgboost.XGBClassifier if task == "classification" else xgboost.XGBRegressor
    return made(
        n_estimators=60,
        learning_rate=0.1,
        max_depth=4,
        reg_lambda=1.0,
        tree_method="hist",
        random_state=seed,
    )


def _lightgbm(task: str, seed: int) -> Any:
    import lightgbm

    made = lightgbm.LGBMClassifier if task == "classification" else lightgbm.LGBMRegressor
    return made(
        n_estimators=60,
        learning_rate=0.1,
        max_depth=4,
        num_leaves=16,
        min_child_samples=10,
        reg_lambda=1.0,
        min_data_in_bin=1,
        random_state=seed,
        verbose=-1,
    )


def _catboost(task: str, seed: int) -> Any:
    import catboost

    made = catboost.CatBoostClassifier if task == "classification" else catboost.CatBoostRegressor
    return made(
        iterations=60,
        learning_rate=0.1,
        depth=4,
        l2_leaf_reg=1.0,
        # Its default leaves out a fifth of the rows for each tree, for some losses.
        bootstrap_type="Bayesian",
        random_seed=seed,
        allow_writing_files=False,
        verbose=False,
    )


def _network(task: str, seed: int) -> Any:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import StandardScaler

    settings = {
        "hidden_layer_sizes": (32,),
        "batch_size": 32,
        "learning_rate_init": 3e-3,
        "max_iter": 40,
        # All epochs, and no penalty, which ours does not have by itself.
        "alpha": 0.0,
        "n_iter_no_change": 1_000,
    }
    if task == "classification":
        return MLPClassifier(**settings, random_state=seed)
    # Ours learns a target of mean 0 and spread 1: in its own units a network takes far longer.
    return TransformedTargetRegressor(
        MLPRegressor(**settings, random_state=seed), transformer=StandardScaler()
    )


PAIRS = {
    "linear": Pair({}, {}, _linear),
    "gb": Pair({"max_iter": 60, "min_samples_leaf": 10}, {"patience": None}, _boosting),
    "random_forest": Pair({"n_estimators": 60}, {}, _forest),
    "xgboost": Pair(
        {"max_iter": 60, "max_depth": 4, "max_features": 1.0, "subsample": 1.0},
        {"patience": None},
        _xgboost,
    ),
    "lightgbm": Pair({"max_iter": 60, "max_depth": 4}, {"patience": None}, _lightgbm),
    "catboost": Pair({"max_iter": 60, "max_depth": 4}, {"patience": None}, _catboost),
    "mlp": Pair(
        {"layer_dims": [None, 32, None]},
        {"max_epochs": 40, "batch_size": 32, "lr": 3e-3, "patience": None},
        _network,
    ),
}


def _bunch(load: Callable[..., Any]) -> Callable[[], tuple[pd.DataFrame, Any]]:
    def made() -> tuple[pd.DataFrame, Any]:
        found = load(as_frame=True)
        return found.data, found.target

    return made


def _generated(make: Callable[..., Any], **arguments: Any) -> Callable[[], tuple[Any, Any]]:
    def made() -> tuple[pd.DataFrame, Any]:
        values, target = make(**arguments, random_state=0)
        return pd.DataFrame(values, columns=[f"x{n}" for n in range(values.shape[1])]), target

    return made


DATA: dict[str, tuple[str, Callable[[], tuple[pd.DataFrame, Any]]]] = {
    "breast_cancer": ("classification", _bunch(datasets.load_breast_cancer)),
    "wine": ("classification", _bunch(datasets.load_wine)),
    "digits": ("classification", _bunch(datasets.load_digits)),
    "classes": (
        "classification",
        _generated(
            datasets.make_classification,
            n_samples=1_000,
            n_informative=6,
            n_classes=3,
            flip_y=0.05,
        ),
    ),
    "diabetes": ("regression", _bunch(datasets.load_diabetes)),
    "friedman": ("regression", _generated(datasets.make_friedman1, n_samples=800, noise=1.0)),
    "sums": (
        "regression",
        _generated(datasets.make_regression, n_samples=500, n_features=20, noise=20.0),
    ),
}


def compare(data: str, model: str, seeds: Sequence[int]) -> Row | None:
    """Hold a model against its pair on a data set.

    Args:
        data: A name of `DATA`.
        model: A name of `PAIRS`.
        seeds: Of the split and of the fit.

    Returns:
        The line of the table; None where the model does not do what the data ask for.
    """
    task, load = DATA[data]
    kind = "classifier" if task == "classification" else "regressor"
    name = f"{model}_{kind}"
    if name not in ModelRegistry.list():
        return None
    features, target = load()
    labels = [str(label) for label in target] if task == "classification" else target
    dataset = TabularDataset(features, labels, target_column="target", task=task, name=data)
    metric = "accuracy" if task == "classification" else "rmse"
    ours, theirs = [], []
    for seed in seeds:
        train, test = dataset.split(TEST_SIZE, seed)
        ours.append(_ours(name, PAIRS[model], train, test, seed, metric))
        theirs.append(_theirs(PAIRS[model].theirs(task, seed), train, test, metric))
    return Row(data, model, metric, ours, theirs, judge(ours, theirs, higher=metric == "accuracy"))


def _ours(
    name: str, pair: Pair, train: TabularDataset, test: TabularDataset, seed: int, metric: str
) -> float:
    preprocessor = Preprocessor().fit(train)
    model = ModelRegistry.get(name)(**pair.arguments)
    report = model.train(
        experiment_name="quality",
        train_data=preprocessor.transform(train),
        test_data=preprocessor.transform(test),
        seed=seed,
        save_model="final",
        tracking=False,
        progress=False,
        **pair.training,
    )
    value: float = report.metrics[f"test_{metric}"]
    return value


def _theirs(estimator: Any, train: TabularDataset, test: TabularDataset, metric: str) -> float:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), estimator)
    with warnings.catch_warnings():
        # That all epochs were used is what was asked for.
        warnings.simplefilter("ignore")
        pipeline.fit(train.features.to_numpy(dtype=np.float64), train.y)
    # CatBoost gives its classes as a column.
    predicted = np.ravel(pipeline.predict(test.features.to_numpy(dtype=np.float64)))
    if metric == "accuracy":
        return float(np.mean(predicted == test.y))
    return float(np.sqrt(np.mean((predicted - test.y) ** 2)))


def judge(ours: Sequence[float], theirs: Sequence[float], *, higher: bool) -> Verdict:
    """Compare values that were found in pairs.

    Args:
        ours: A value for each seed.
        theirs: The same of the other side.
        higher: Whether a higher value is the better one.

    Returns:
        ``equal`` where the mean difference is no larger than chance would have it.
    """
    from scipy import stats

    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(differences)
    count = len(differences)
    noise = 0.0
    if count > 1:
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
        noise = quantile * statistics.stdev(differences) / math.sqrt(count)
    if abs(mean) <= max(noise, NEGLIGIBLE * abs(statistics.fmean(theirs))):
        return "equal"
    return "better" if (mean > 0) == higher else "worse"


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out for a terminal.

    Args:
        rows: The lines.

    Returns:
        Lines of text, without a last line break.
    """

    def spread(values: Sequence[float]) -> str:
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.fmean(values):.4f} ± {std:.4f}"

    cells = [["data", "model", "metric", "ours", "theirs", "verdict"]]
    cells += [
        [r.data, r.model, r.metric, spread(r.ours), spread(r.theirs), r.verdict] for r in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="splits and fits for each pair")
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--models", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds: must be at least 1, got {options.seeds}")
    rows = []
    for data in options.data:
        for model in options.models:
            started = time.perf_counter()
            row = compare(data, model, range(options.seeds))
            if row is None:
                print(f"  {data}, {model}: no model for it", file=sys.stderr)
                continue
            seconds = time.perf_counter() - started
            print(f"  {data}, {model}: {seconds:.1f} s", file=sys.stderr, flush=True)
            rows.append(row)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    worse = [f"{row.model} on {row.data}" for row in rows if row.verdict == "worse"]
    if worse:
        print(f"worse than the library itself: {', '.join(worse)}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    logging.getLogger("ml_project_template").setLevel(logging.ERROR)
    sys.exit(main())
