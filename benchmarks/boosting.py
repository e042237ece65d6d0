"""What our boosters cost above the libraries that grow the trees.

    python -m benchmarks.boosting                     # 10,000 and 100,000 rows
    python -m benchmarks.boosting --sizes 1000000 --rounds 1

Each library is used twice with the same settings, on the same float32 matrix, watching the loss of
the same validation rows after each of the same number of stages, by one thread:

- *fit*: ours is ``_fit``, theirs ``HistGradientBoostingClassifier.fit``, ``lightgbm.train`` and
  ``xgboost.train``;
- *train*: ours is ``BaseModel.train(tracking=False)``, which also keeps the best stages, predicts
  the training, validation and test rows, and computes six metrics and the confusion matrix of each;
  theirs does that too, by the library's own prediction and ``sklearn.metrics``.

A second table has the libraries beside one another, and beside scikit-learn's exact booster.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics
from threadpoolctl import threadpool_limits

from benchmarks.harness import Aim, Report, Samples, Way, compare
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.models.registry import ModelRegistry

SIZES = (10_000, 100_000)
LIBRARIES = ("gb", "lightgbm", "xgboost")
_STAGES = 100
_NUM_FEATURES = 32
_EXACT_ROWS = 4_000

Splits = dict[str, TabularDataset]


def make_splits(num_rows: int) -> Splits:
    """Make prepared rows of two classes, three fifths of them for training.

    Args:
        num_rows: All rows.
    """
    generator = np.random.default_rng(0)
    X = generator.normal(size=(num_rows, _NUM_FEATURES)).astype(np.float32)
    odds = X[:, 0] + np.sin(2.0 * X[:, 1]) + X[:, 2] * X[:, 3] + 0.5 * X[:, 4:12].sum(axis=1)
    y = np.where(odds + generator.logistic(size=num_rows) > 0.0, "yes", "no")
    frame = pd.DataFrame(X, columns=[f"x{place}" for place in range(_NUM_FEATURES)])
    data = TabularDataset(frame, y, target_column="y")
    fifth = num_rows // 5
    rows = np.arange(num_rows)
    parts = {"train": rows[: -2 * fifth], "val": rows[-2 * fifth : -fifth], "test": rows[-fifth:]}
    raw = {part: data.take(places) for part, places in parts.items()}
    fitted = Preprocessor().fit(raw["train"])
    splits = {part: fitted.transform(dataset) for part, dataset in raw.items()}
    for dataset in splits.values():
        dataset.X.sum()  # made once, for both
    return splits


def _model(library: str, **settings: Any) -> Any:
    return ModelRegistry.get(f"{library}_classifier")(max_iter=_STAGES, **settings)


def _our_fit(library: str, splits: Splits) -> None:
    model = _model(library)
    model._describe(splits)
    model._fit(splits["train"], splits["val"], patience=None, save_model="final", seed=0)


def _our_train(library: str, splits: Splits) -> None:
    _model(library).train(
        experiment_name="benchmark",
        train_data=splits["train"],
        val_data=splits["val"],
        test_data=splits["test"],
        patience=None,
        seed=0,
        tracking=False,
        progress=False,
    )


def _histogram(splits: Splits) -> Callable[[Any], Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    train, val = splits["train"], splits["val"]
    estimator = HistGradientBoostingClassifier(
        max_iter=_STAGES,
        max_leaf_nodes=31,
        min_samples_leaf=10,
        early_stopping=True,
        n_iter_no_change=_STAGES + 1,
        validation_fraction=None,
        random_state=0,
    )
    estimator.fit(train.X, train.y, X_val=val.X, y_val=val.y)
    return lambda X: estimator.predict_proba(X)[:, 1]


def _lightgbm(splits: Splits) -> Callable[[Any], Any]:
    import lightgbm

    settings = {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": 0.1,
        "max_depth": 6,
        "num_leaves": 64,
        "min_data_in_leaf": 10,
        "min_data_per_group": 10,
        "min_data_in_bin": 1,
        "lambda_l2": 1.0,
        "deterministic": True,
        "force_row_wise": True,
        "seed": 0,
        "verbosity": -1,
    }
    train, val = splits["train"], splits["val"]
    rows = lightgbm.Dataset(train.X, train.y, params=settings)
    watched = lightgbm.Dataset(val.X, val.y, reference=rows, params=settings)
    booster = lightgbm.train(
        settings, rows, _STAGES, valid_sets=[rows, watched], valid_names=["train", "val"]
    )
    return booster.predict


def _xgboost(splits: Splits) -> Callable[[Any], Any]:
    import xgboost

    settings = {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "learning_rate": 0.1,
        "max_depth": 6,
        "min_child_weight": 1.0,
        "lambda": 1.0,
        "colsample_bytree": 0.5,
        "subsample": 0.5,
        "tree_method": "hist",
        "seed": 0,
        "verbosity": 0,
    }
    train, val = splits["train"], splits["val"]
    # For QuantileDMatrix it takes half as long again, to the same trees.
    rows, watched = xgboost.DMatrix(train.X, train.y), xgboost.DMatrix(val.X, val.y)
    booster = xgboost.train(
        settings, rows, _STAGES, evals=[(rows, "train"), (watched, "val")], verbose_eval=False
    )
    return booster.inplace_predict


DIRECT: dict[str, Callable[[Splits], Callable[[Any], Any]]] = {
    "gb": _histogram,
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
}


def _judged(splits: Splits, predict: Callable[[Any], Any]) -> None:
    """Measure by hand what ``train`` measures."""
    for data in splits.values():
        y, chances = data.y, np.asarray(predict(data.X), dtype=np.float64)
        predicted = (chances >= 0.5).astype(np.int64)
        metrics.log_loss(y, chances)
        metrics.accuracy_score(y, predicted)
        metrics.balanced_accuracy_score(y, predicted)
        metrics.f1_score(y, predicted, average="macro")
        metrics.roc_auc_score(y, chances)
        metrics.average_precision_score(y, chances)
        metrics.confusion_matrix(y, predicted)


def _exact(splits: Splits) -> None:
    from sklearn.ensemble import GradientBoostingClassifier

    train = splits["train"]
    GradientBoostingClassifier(
        n_estimators=_STAGES, max_depth=None, max_leaf_nodes=31, min_samples_leaf=10, random_state=0
    ).fit(train.X, train.y)


def _compared(library: str, splits: Splits, rounds: int) -> Samples:
    direct = DIRECT[library]

    def fit() -> None:
        direct(splits)

    return compare(
        [
            Way("fit", lambda: _our_fit(library, splits)),
            Way("their fit", fit),
            Way("train", lambda: _our_train(library, splits)),
            Way("their train", lambda: _judged(splits, direct(splits))),
        ],
        rounds=rounds,
    )


def _threads() -> Any:
    # With several, the CPU seconds are those of waiting, too, and differ from run to run. A library
    # is limited once it is loaded.
    for library in ("lightgbm", "sklearn.ensemble", "xgboost"):
        importlib.import_module(library)
    return threadpool_limits(limits=1)


def measure(
    sizes: Sequence[int] = SIZES, libraries: Sequence[str] = LIBRARIES, rounds: int = 5
) -> list[Report]:
    """Compare our boosters with the libraries, and the libraries with one another.

    Args:
        sizes: Numbers of rows.
        libraries: Of ``LIBRARIES``.
        rounds: How often each way is run.

    Returns:
        Two tables.
    """
    report = Report(
        name="boosting",
        title=f"Boosted trees, {_STAGES} stages, {_NUM_FEATURES} features, CPU seconds",
        columns=("model", "fit", "their fit", "ratio", "train", "their train", "ratio"),
    )
    peers = Report(
        name="boosting-peers",
        title="The libraries' own fits, CPU seconds",
        columns=(
            "rows",
            *(*libraries, "exact"),
            *(f"{name}/{libraries[0]}" for name in (*libraries[1:], "exact")),
        ),
    )
    with _threads():
        for size in sizes:
            splits = make_splits(size)
            found = {library: _compared(library, splits, rounds) for library in libraries}
            for library, samples in found.items():
                ratios = samples.ratio("fit", "their fit"), samples.ratio("train", "their train")
                medians = {name: samples.median(name) for name in samples.costs}
                report.rows.append(
                    (
                        f"{library} {size:,}",
                        *(medians["fit"], medians["their fit"], ratios[0]),
                        *(medians["train"], medians["their train"], ratios[1]),
                    )
                )
                report.samples[f"{library} {size}"] = dict(samples.costs)
                report.aims += [
                    Aim(f"{library} {size:,}: fit, times the library", ratios[0], 1.03),
                    Aim(f"{library} {size:,}: train, times the same by hand", ratios[1], 1.03),
                ]
        for size in (_EXACT_ROWS, *sizes):
            peers.rows.append(_beside(size, libraries, rounds, exact=size == _EXACT_ROWS))
    return [report, peers]


def _beside(size: int, libraries: Sequence[str], rounds: int, *, exact: bool) -> Sequence[Any]:
    splits = make_splits(size)
    ways = [Way(name, lambda name=name: _ignored(DIRECT[name](splits))) for name in libraries]
    if exact:
        ways.append(Way("exact", lambda: _exact(splits)))
    samples = compare(ways, rounds=rounds)
    names = [*libraries, "exact"]
    known = set(samples.costs)
    medians = [samples.median(name) if name in known else "" for name in names]
    return (
        f"{size:,}",
        *medians,
        *(samples.ratio(name, names[0]) if name in known else "" for name in names[1:]),
    )


def _ignored(_: Any) -> None:
    """Return nothing: what a way returns would be taken for its cost."""


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of rows")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    reports = measure(options.sizes, options.libraries, options.rounds)
    for report in reports:
        print(report, end="\n\n")
    if options.json:
        options.json.write_text(json.dumps([report.to_dict() for report in reports]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
