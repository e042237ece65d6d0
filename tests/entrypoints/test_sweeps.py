"""Sweeps by ``-m``, run as a user runs them, on real data and a real tracking database."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, CommandLine

InProcess = Callable[..., tuple[int, str, str]]

# In this process, so that what runs is seen by a debugger, and by coverage.
HERE = "sweep.n_jobs=0"
NO_PLOTS = "sweep.log_plots=false"
QUICK = ("model.max_iter=8", "training.patience=null")
GRID = ("train", "-m", HERE, NO_PLOTS, "model=gb", *QUICK)
SEARCH = ("train", "-m", HERE, "sweep=gb", "sweep.n_trials=5", *QUICK)


def _runs(workspace: Path) -> tuple[Any, list[Any]]:
    """Give the run above all others, and those below it by their trials."""
    parents, children = _all_runs(workspace)
    (parent,) = parents
    below = [run for run in children if run.data.tags["mlflow.parentRunId"] == parent.info.run_id]
    return parent, sorted(below, key=lambda run: int(run.data.tags.get("trial", -1)))


def _all_runs(workspace: Path) -> tuple[list[Any], list[Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in runs if run not in parents]


def _artifacts(run: Any) -> set[str]:
    return {path.name for path in Path(run.info.artifact_uri).iterdir()}


def _weights(directory: Path) -> str:
    files = json.loads((directory / "manifest.json").read_text())["files"]
    return next(str(e["sha256"]) for name, e in files.items() if name.startswith("weights"))


def _results(workspace: Path) -> list[dict[str, str]]:
    (path,) = sorted(workspace.glob("multirun/*/*/results.csv"))[-1:]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ---- grids


def test_a_grid_is_one_run_with_a_run_below_it_for_each_combination(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process(
        *GRID, "model.max_leaf_nodes=4,16", "seed=1,2", "sweep.log_plots=true"
    )
    assert status == 0, err
    parent, children = _runs(workspace)
    assert parent.info.status == "FINISHED"
    assert [run.info.status for run in children] == ["FINISHED"] * 4
    points = [(r.data.params["model.max_leaf_nodes"], r.data.params["seed"]) for r in children]
    assert points == [("4", "1"), ("4", "2"), ("16", "1"), ("16", "2")]
    assert {r.data.tags["trial_state"] for r in children} == {"complete"}
    assert _artifacts(parent) >= {"results.csv", "sweep.html", "best.yaml", "logs"}
    assert "4 trials" in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["trials_complete"] == 4
    assert (Path(children[0].info.artifact_uri) / "plots" / "loss_curve.png").is_file()
    # Each job has a folder, a log, a configuration and a model of its own.
    for number in range(4):
        (job,) = workspace.glob(f"multirun/*/*/{number}")
        assert (job / "train.log").stat().st_size > 0
        assert (job / ".hydra" / "overrides.yaml").is_file()
        (model,) = workspace.glob(f".models/multirun/*/*/{number}")
        metadata = json.loads((model / "metadata.json").read_text())
        assert metadata["run_id"] == children[number].info.run_id
        assert "sweep" not in metadata["config"]
    # Boosting draws nothing here, so the seeds of a setting agree.
    assert re.search(r"1 +(0,1|2,3) +(4|16) +0\.\d+ ± 0 \(2\)", out)
    assert len(_results(workspace)) == 4


def test_the_best_model_is_where_a_single_training_would_put_it(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process(*GRID, "model.learning_rate=0.01,0.3")
    assert status == 0, err
    rows = {row["trial"]: float(row["val_loss"]) for row in _results(workspace)}
    best = min(rows, key=lambda trial: rows[trial])
    (trained,) = workspace.glob(f".models/multirun/*/*/{best}")
    assert _weights(workspace / ".models/iris_gb") == _weights(trained)
    assert "entrypoints.evaluate model.path=.models/iris_gb data=iris" in out
    assert in_process("evaluate", "model.path=.models/iris_gb", "data=iris")[0] == 0
    parent, children = _runs(workspace)
    assert parent.data.tags["best_run_id"] == children[int(best)].info.run_id
    assert parent.data.metrics["val_loss"] == pytest.approx(rows[best])
    assert in_process("evaluate", f"model.path=runs:/{parent.info.run_id}/model")[0] == 0


def test_the_best_settings_are_a_preset_that_gives_the_same_model(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process(*SEARCH, "data=wine", "data.random_state=7")
    assert status == 0, err
    (again,) = re.findall(r"--config-dir (\S+) experiment=best", out)
    preset = yaml.safe_load((workspace / again / "experiment" / "best.yaml").read_text())
    assert preset["defaults"] == [
        {"override /data": "wine"},
        {"override /model": "gb"},
        {"override /preprocessing": "standardize"},
    ]
    assert preset["data"] == {"random_state": 7}
    assert set(preset) == {"defaults", "data", "model", "training"}
    status, _, err = in_process(
        *("train", "--config-dir", again, "experiment=best", "model_path=again"),
        "tracking=disabled",
    )
    assert status == 0, err
    assert _weights(workspace / "again") == _weights(workspace / ".models/wine_gb")


def test_groups_are_compared_below_one_run(in_process: InProcess, workspace: Path) -> None:
    status, out, err = in_process(
        *("train", "-m", HERE, "model=mlp,gb", "preprocessing=standardize,none"),
        NO_PLOTS,
    )
    assert status == 0, err
    _, children = _runs(workspace)
    assert [r.data.tags["model"] for r in children] == [
        *("mlp_classifier", "mlp_classifier", "gb_classifier", "gb_classifier")
    ]
    assert "iris_models-" in out
    best = json.loads((workspace / ".models/iris_mlp/config.json").read_text())
    assert best["name"] == "mlp_classifier"
    assert not (workspace / ".models/iris_gb").exists()


CLASSIFIERS = '''
"""A classifier that has no regressor beside it."""

from ml_project_template.models import LinearClassifier, register


@register
class Bare(LinearClassifier):
    """Logistic regression."""

    def __init__(self) -> None:
        super().__init__()


@register
class Lacking(Bare):
    """Logistic regression."""

    packages = ("numpy", "no-such-package")
'''


def test_of_all_models_those_that_can_learn_from_the_data_are_compared(
    in_process: InProcess, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "bare.py").write_text(CLASSIFIERS)
    (workspace / "own" / "model").mkdir(parents=True)
    for name in ("Bare", "Lacking"):
        file = workspace / "own" / "model" / f"own_{name.lower()}.yaml"
        file.write_text(f"_target_: bare.{name}\n")
    monkeypatch.syspath_prepend(workspace)
    monkeypatch.setenv("ML_PROJECT_PACKAGES", "bare")
    rows = [f"{n % 7},{n % 5},{2.5 * (n % 7) + n / 100}" for n in range(60)]
    (workspace / "t.csv").write_text("\n".join(["a,b,price", *rows]))
    command = ("train", "--config-dir", "own", "-m", HERE, "tracking=disabled", "data=csv")
    data = ("data.path=t.csv", "data.target_column=price")
    status, out, err = in_process(*command, *data, "model=glob([linear,own_*])")
    assert status == 0, err
    told = [line for line in (out + err).splitlines() if "is left out" in line]
    assert told == [
        "Sweep: model=own_lacking is left out: no-such-package is not installed",
        "Sweep: model=own_bare is left out: a bare is for classification, and the target is one "
        "for regression; there is no model 'bare_regressor'. Choose another model, or set "
        "data.task=classification.",
    ]
    (row,) = _results(workspace)
    assert (row["model"], row["state"]) == ("linear", "complete")
    table = out.split("\n\n")[1].splitlines()
    assert table[0].split() == [
        *("rank", "trial", "model", "val_loss", "val_rmse", "test_rmse", "test_r2", "seconds")
    ]
    # One that is named is not left out: who names it wants to know.
    status, out, err = in_process(*command, *data, "model=linear,own_bare")
    assert status == 1
    assert err.splitlines()[-1].startswith("error: 1 of 2 trials failed")
    assert "ConfigError: model: a bare is for" in out
    # And where none is left there is nothing to compare.
    status, _, err = in_process(*command, *data, "model=glob(own_*)")
    assert status == 1
    assert err.splitlines()[-1].startswith("error: model=own_bare: a bare is for classification")


def test_models_are_compared_by_accuracy_too(in_process: InProcess) -> None:
    status, out, err = in_process(
        *("train", "-m", HERE, "model=linear", "preprocessing=glob(*)", "tracking=disabled")
    )
    assert status == 0, err
    assert "seconds" not in out
    status, out, err = in_process(
        *("train", "-m", HERE, "model=linear,gb", "seed=1,2", "tracking=disabled")
    )
    assert status == 0, err
    header, first, second = out.split("\n\n")[1].splitlines()
    assert header.split() == [
        *("rank", "trials", "model", "val_loss", "val_accuracy", "test_accuracy", "seconds")
    ]
    assert re.fullmatch(r" +1 +0,1 +linear +0\.\d+ ± 0 \(2\)( +\d\.\d+ ± 0){2} +\d+\.\d", first)
    assert second.split()[:3] == ["2", "2,3", "gb"]


def test_a_model_path_is_where_the_best_goes_and_null_keeps_no_model(
    in_process: InProcess, workspace: Path
) -> None:
    status, _, err = in_process(*GRID, "seed=1,2", "model_path=mine", "tracking=disabled")
    assert status == 0, err
    assert (workspace / "mine" / "manifest.json").is_file()
    assert len(list(workspace.glob(".models/multirun/*/*/*/manifest.json"))) == 2
    assert not (workspace / "mlflow.db").exists()
    status, _, err = in_process(*GRID, "seed=3,4", "model_path=null", "tracking=disabled")
    assert status == 0, err
    assert len(list(workspace.rglob("manifest.json"))) == 3


def test_hydras_own_sweeper_still_works(in_process: InProcess, workspace: Path) -> None:
    status, _, err = in_process(
        *("train", "-m", "hydra/sweeper=basic", "model=gb", *QUICK, "seed=1,2"),
        "tracking=disabled",
    )
    assert status == 0, err
    assert len(list(workspace.glob(".models/multirun/*/*/[01]/manifest.json"))) == 2


@pytest.mark.long
def test_another_launcher_runs_the_trials_below_the_same_run(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process(
        *("train", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "model=gb", *QUICK),
        *("seed=1,2", NO_PLOTS),
    )
    assert status == 0, err
    assert "launched by joblib" in out
    parent, children = _runs(workspace)
    assert [(run.data.tags["trial"], run.info.status) for run in children] == [
        ("0", "FINISHED"),
        ("1", "FINISHED"),
    ]
    assert parent.data.tags["best_run_id"] == children[0].info.run_id
    assert _weights(workspace / ".models/iris_gb")


# ---- searches


def test_a_search_draws_its_settings_from_the_space(in_process: InProcess, workspace: Path) -> None:
    status, _, err = in_process(*SEARCH, "model.max_leaf_nodes=7", "model.max_features=0.5,1.0")
    assert status == 0, err
    _, children = _runs(workspace)
    assert len(children) == 5
    for run in children:
        assert 0.01 <= float(run.data.params["model.learning_rate"]) <= 0.3
        # The command line wins over the space: a single value fixes, others take its place.
        assert run.data.params["model.max_leaf_nodes"] == "7"
        assert run.data.params["model.max_features"] in ("0.5", "1.0")
    assert len({run.data.params["model.learning_rate"] for run in children}) == 5


def test_a_trial_that_does_worse_ends_early_and_has_not_failed(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process(
        *("train", "-m", HERE, "sweep=gb", "sweep.n_trials=6", "model.max_iter=30"),
        *("sweep.sampler=random", "+sweep.search_space.seed=choice(1)"),
        *("sweep.pruner_options.median.n_startup_trials=1", "sweep.max_failure_rate=0"),
        "sweep.pruner_options.median.n_warmup_steps=1",
    )
    assert status == 0, err
    _, children = _runs(workspace)
    pruned = [run for run in children if run.data.tags["trial_state"] == "pruned"]
    assert pruned
    assert f"{len(pruned)} pruned" in out
    for run in pruned:
        assert run.info.status == "FINISHED"
        assert int(run.data.tags["pruned_at"]) < 30
        assert "test_loss" not in run.data.metrics
    assert Counter(row["state"] for row in _results(workspace))["pruned"] == len(pruned)


def test_the_same_command_has_nothing_left_to_do_and_more_trials_go_on(
    in_process: InProcess, workspace: Path
) -> None:
    assert in_process(*SEARCH)[0] == 0
    before, _ = _runs(workspace)
    status, out, _ = in_process(*SEARCH)
    assert status == 0
    assert "5 of 5 trials done before" in out
    assert "best      trial" in out
    parent, children = _runs(workspace)
    assert len(children) == 5
    assert parent.data.metrics == before.data.metrics
    assert in_process(*SEARCH, "sweep.n_trials=7")[0] == 0
    parent, children = _runs(workspace)
    assert [int(run.data.tags["trial"]) for run in children] == list(range(7))
    assert parent.data.metrics["trials_complete"] + parent.data.metrics["trials_pruned"] == 7


def test_a_new_beginning_is_another_study_with_another_run(
    in_process: InProcess, workspace: Path
) -> None:
    assert in_process(*GRID, "seed=1,2")[0] == 0
    status, out, _ = in_process(*GRID, "seed=1,2", "sweep.resume=false")
    assert status == 0
    parents, children = _all_runs(workspace)
    assert (len(parents), len(children)) == (2, 4)
    # The newest is the one that is gone on with.
    status, again, _ = in_process(*GRID, "seed=1,2")
    (name,) = re.findall(r"Sweep: study (\S+-2) in", out)
    assert f"study {name} in" in again
    assert len(_all_runs(workspace)[1]) == 4


def test_other_settings_or_other_rows_are_another_study(
    in_process: InProcess, workspace: Path
) -> None:
    table = workspace / "my.csv"
    table.write_text("a,y\n" + "".join(f"{i},{'uv'[i % 2]}\n" for i in range(60)))
    data = ("data=csv", "data.path=my.csv", "data.target_column=y", "tracking=disabled")
    names = set()
    for change in ((), ("model.max_depth=3",)):
        names |= set(re.findall("study (\\S+) in", in_process(*GRID, "seed=1", *data, *change)[1]))
    table.write_text(table.read_text() + "61,u\n")
    names |= set(re.findall("study (\\S+) in", in_process(*GRID, "seed=1", *data)[1]))
    assert len(names) == 3
    assert all(name.startswith("my_gb-") for name in names)


def test_a_named_study_is_not_gone_on_with_by_other_settings(in_process: InProcess) -> None:
    named = ("sweep.study_name=mine", "tracking=disabled")
    assert in_process(*GRID, "seed=1,2", *named)[0] == 0
    status, _, err = in_process(*GRID, "seed=1,2", "model.max_depth=3", *named)
    assert status == 1
    assert re.fullmatch(
        r"error: sweep.study_name: 'mine' was begun with other settings \(max_depth\)\. .+\n", err
    )


def test_folds_are_runs_below_the_run_of_their_trial(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process(*SEARCH, "sweep.n_trials=3", "cv=3", "sweep.pruner=none")
    assert status == 0, err
    parents, below = _all_runs(workspace)
    (parent,) = parents
    trials = [r for r in below if r.data.tags["mlflow.parentRunId"] == parent.info.run_id]
    trials = [run for run in trials if "trial" in run.data.tags]
    assert len(trials) == 3
    for trial in trials:
        folds = [r for r in below if r.data.tags["mlflow.parentRunId"] == trial.info.run_id]
        losses = [fold.data.metrics["val_loss"] for fold in folds]
        assert sorted(fold.data.tags["fold"] for fold in folds) == ["1", "2", "3"]
        assert trial.data.metrics["cv_loss"] == pytest.approx(sum(losses) / 3)
        assert trial.data.metrics["cv_loss_std"] > 0
    assert "the lower cv_loss the better" in out
    assert re.search(r"1 +\d .+ 0\.\d+ ± 0\.\d+\n", out)
    # Trials are means and have no model: the best settings are trained once more.
    assert (workspace / ".models/iris_gb/manifest.json").is_file()
    refits = [run for run in below if "refit_of_trial" in run.data.tags]
    assert [run.data.tags["refit_of_trial"] for run in refits] == [
        min(trials, key=lambda run: run.data.metrics["cv_loss"]).data.tags["trial"]
    ]


def test_seeds_of_a_search_are_repetitions_and_not_chosen_from(
    in_process: InProcess, workspace: Path
) -> None:
    status, _, err = in_process(
        *SEARCH, "sweep.n_trials=2", "seed=1,2,3", "model.max_features=0.5", "sweep.pruner=none"
    )
    assert status == 0, err
    _, below = _all_runs(workspace)
    trials = [run for run in below if "trial" in run.data.tags]
    assert len(trials) == 2
    for trial in trials:
        parts = [r for r in below if r.data.tags["mlflow.parentRunId"] == trial.info.run_id]
        assert sorted(part.data.tags["seed"] for part in parts) == ["1", "2", "3"]
        losses = [part.data.metrics["val_loss"] for part in parts]
        assert trial.data.metrics["val_loss"] == pytest.approx(sum(losses) / 3)
        assert trial.data.metrics["val_loss_std"] > 0


def test_several_metrics_give_a_choice_and_no_single_best(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process(*SEARCH, "sweep.metric=[val_loss,val_accuracy]")
    assert status == 0, err
    assert "the lower val_loss and the higher val_accuracy the better" in out
    assert "nothing is pruned" in out
    assert "* Pareto-optimal" in out
    assert not (workspace / ".models/iris_gb").exists()
    parent, children = _runs(workspace)
    assert len(children) == 5
    assert "sweep.html" in _artifacts(parent)


# ---- failures


BROKEN = ("model.booster=histogram,exact", "model.subsample=0.5,1.0", "model.max_depth=2,3,4")


def test_a_sweep_goes_on_past_trials_that_fail_and_names_them(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process(*GRID, *BROKEN, "sweep.max_failure_rate=0.34")
    assert status == 0, err
    _, children = _runs(workspace)
    assert Counter(r.info.status for r in children) == {"FINISHED": 9, "FAILED": 3}
    assert "belongs to booster exact" in children[0].data.tags["error"]
    failed = [row for row in _results(workspace) if row["state"] == "failed"]
    assert [(r["model.booster"], r["model.subsample"]) for r in failed] == [
        ("histogram", "0.5")
    ] * 3
    assert "belongs to booster exact" in failed[0]["error"]
    assert "3 failed" in out
    assert "model.subsample=0.5 belongs to booster exact" in out


def test_more_failures_than_allowed_end_the_command_with_an_error(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process(*GRID, *BROKEN, "sweep.max_failure_rate=0.2")
    assert status == 1
    assert err.splitlines()[-1] == (
        "error: 3 of 12 trials failed, more than sweep.max_failure_rate=0.2 allows."
    )
    # All that could be done is done all the same.
    assert _weights(workspace / ".models/iris_gb")
    assert "best      trial" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["model=gb", "training.lrr=1,2"], "training.lrr: unknown key"),
        (["model=mpl,gb"], "Unknown model 'mpl'. Did you mean 'mlp'?"),
        (["model=gb,mpl"], "Unknown model 'mpl'. Did you mean 'mlp'?"),
        (["model=gb", "seed=1,2", "tracking.uri=http://127.0.0.1:9"], "can't be reached"),
        (["model=gb", "model.max_iter=0,5"], "model.max_iter: must be greater than 0, got 0"),
        (["sweep=nope"], "Unknown sweep 'nope'"),
        (["sweep=gb", "sweep.metric=test_loss"], "the test rows must not choose"),
        (["sweep=gb", "sweep.n_trials=0"], "sweep.n_trials: must be greater than 0, got 0"),
        (["sweep=gb", "sweep.pruner=medain"], "Unknown pruner 'medain'. Did you mean 'median'?"),
        (["sweep=gb", "sweep.njobs=2"], "sweep.njobs: unknown key. Did you mean 'n_jobs'?"),
        (["sweep=gb", "data.val_size=0"], "needs validation rows"),
        (["sweep=gb", "seed=a,b"], "seed: must be whole numbers"),
        (
            ["sweep=gb", "sweep.storage=sqlite:////proc/no/x.db"],
            "sweep.storage: '/proc/no' can't be written",
        ),
        (["model=gb", "model.max_iter=interval(1,5)"], "a grid takes listed values"),
        (["sweep.sampler=tpe", "sweep.n_trials=3"], "sampler tpe has nothing to choose"),
        (["model=gb", "data=csv", "seed=1,2"], "data.target_column"),
        (["model=gb", "data.source=no.csv", "data.path=x.csv", "seed=1,2"], "no.csv"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_wrong_sweep_is_told_before_anything_runs(
    arguments: list[str], line: str, in_process: InProcess, workspace: Path
) -> None:
    status, _, err = in_process("train", "-m", *arguments)
    assert status == 1
    assert line in err
    assert all(text.startswith("error: ") for text in err.strip().splitlines())
    assert not (workspace / "mlflow.db").exists()
    assert not list(workspace.glob("multirun/*/*/0"))


def test_what_is_edited_while_a_sweep_runs_does_not_change_it(
    command_line: CommandLine, workspace: Path
) -> None:
    (workspace / "meddler.py").write_text(
        textwrap.dedent(
            '''
            """A booster that edits its own configuration file while it is trained."""

            import os
            from pathlib import Path

            from ml_project_template.models import register
            from ml_project_template.models.gb_classifier import GBClassifier


            @register
            class Meddler(GBClassifier):
                """Boosting."""

                def __init__(self, max_iter: int = 5, max_depth: int = 2) -> None:
                    super().__init__(max_iter=max_iter, max_depth=max_depth)

                def _fit(self, train_data, val_data=None) -> None:
                    file = Path("conf/model/meddler.yaml")
                    edited = file.with_name(f"{os.getpid()}.new")
                    edited.write_text(file.read_text().replace("max_iter: 5", "max_iter: 9"))
                    # In one step: two workers may do this at once.
                    edited.replace(file)
                    super()._fit(train_data, val_data)
            '''
        )
    )
    (workspace / "conf" / "model").mkdir(parents=True)
    file = workspace / "conf" / "model" / "meddler.yaml"
    file.write_text("_target_: meddler.Meddler\nmax_iter: 5\nmax_depth: 2\n")
    done = command_line(
        *("train", "--config-dir", "conf", "-m", "model=meddler", "model.max_depth=2,3,4"),
        *("tracking=disabled", "sweep.n_jobs=2"),
        env={"PYTHONPATH": f"{ROOT}:{workspace}", "ML_PROJECT_PACKAGES": "meddler"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "max_iter: 9" in file.read_text()
    iterations = [
        json.loads(path.read_text())["params"]["max_iter"]
        for path in workspace.glob(".models/multirun/*/*/*/config.json")
    ]
    assert iterations == [5, 5, 5]


# ---- workers


@pytest.mark.long
def test_workers_run_a_search_without_a_framework_that_it_does_not_need(
    command_line: CommandLine, workspace: Path
) -> None:
    (workspace / "torch").mkdir()
    (workspace / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
    done = command_line(
        *("train", "-m", "sweep=gb", "sweep.n_trials=6", *QUICK, "sweep.n_jobs=2"),
        env={"PYTHONPATH": f"{workspace}:{ROOT}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    parent, children = _runs(workspace)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 7
    logs = [path.name for path in workspace.glob("multirun/*/*/worker-*.log")]
    assert sorted(logs) == ["worker-0.log", "worker-1.log"]
    # What a trial says goes to its own log, and to that of its worker, not to the terminal.
    assert "gb_classifier: step" not in done.stdout


def test_a_secret_stands_in_nothing_that_a_sweep_writes(
    in_process: InProcess, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-in-environment")
    status, out, err = in_process(
        *GRID, "seed=1,2", "+data.read_options.db_password=canary-in-config"
    )
    # The option is none of pandas': each trial fails, and says so without its value.
    assert status == 1
    assert "canary" not in out + err
    written = [path for path in workspace.rglob("*") if path.is_file()]
    assert [path for path in written if b"canary" in path.read_bytes()] == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_sweep_and_the_same_command_goes_on(
    number: signal.Signals, workspace: Path, python: list[str]
) -> None:
    command = [
        *("-m", "entrypoints.train", "-m", "sweep=gb", "sweep.n_trials=12"),
        *("model.max_iter=60", "sweep.n_jobs=2", "sweep.pruner=none"),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=workspace,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(workspace.glob(".models/multirun/*/*/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    # Ctrl-C reaches all processes of a terminal, a scheduler asks the first one alone.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 128 + number, output
    assert "the same command goes on" in output
    parent, children = _runs(workspace)
    assert parent.info.status == "KILLED"
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}
    assert len(children) < 12
    done = subprocess.run(
        [*python, *command],
        cwd=workspace,
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parent, children = _runs(workspace)
    assert parent.info.status == "FINISHED"
    assert Counter(run.info.status for run in children)["FINISHED"] == 12


@pytest.mark.long
def test_processes_with_one_database_share_a_study_and_stop_together(
    postgresql: str, workspace: Path, python: list[str]
) -> None:
    command = [
        *(*python, "-m", "entrypoints.train", "-m", "sweep=gb", "sweep.n_trials=8", *QUICK),
        *(f"sweep.storage={postgresql}", "sweep.study_name=shared"),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    crew = [
        subprocess.Popen(
            command,
            cwd=workspace,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in crew]
    assert [process.returncode for process in crew] == [0, 0], outputs
    parent, children = _runs(workspace)
    assert parent.info.status == "FINISHED"
    assert [int(run.data.tags["trial"]) for run in children] == list(range(8))
    assert "hidden-word" not in "".join(outputs)
    written = [path for path in workspace.rglob("*") if path.is_file()]
    assert [path for path in written if b"hidden-word" in path.read_bytes()] == []


# ---- looking back


def test_studies_are_listed_and_shown(in_process: InProcess, workspace: Path) -> None:
    status, out, _ = in_process("sweeps")
    assert status == 0
    assert "No sweep has left a study" in out
    assert in_process(*GRID, "model.max_depth=2,3")[0] == 0
    status, out, _ = in_process("sweeps")
    assert status == 0
    (name,) = re.findall(r"^(iris_gb-\w+) +2 of 2 +val_loss 0\.\d+", out, re.MULTILINE)
    assert "model.max_depth=2,3" in out
    status, out, _ = in_process("sweeps", f"study={name}", "output=page.html")
    assert status == 0
    assert re.search(r"best +trial [01]: val_loss 0\.\d+", out)
    assert "model     .models/iris_gb" in out
    assert "entrypoints.train -m" in out
    assert "<h1>" in (workspace / "page.html").read_text()


def test_an_unknown_study_is_told_with_those_there_are(in_process: InProcess) -> None:
    assert in_process(*GRID, "seed=1", "sweep.study_name=first", "tracking=disabled")[0] == 0
    status, _, err = in_process("sweeps", "study=frist")
    assert status == 1
    assert err == "error: study: Unknown study 'frist'. Did you mean 'first'? Available: first.\n"


def test_a_folder_of_an_earlier_sweep_is_not_used_again(
    in_process: InProcess, workspace: Path
) -> None:
    fixed = ("hydra.sweep.dir=here", "tracking=disabled", "seed=1,2")
    assert in_process(*GRID, *fixed)[0] == 0
    before = _weights(workspace / ".models/here/0")
    assert in_process(*GRID, *fixed, "model.max_depth=2")[0] == 0
    assert _weights(workspace / ".models/here/0") == before
    assert {path.name for path in (workspace / ".models/here").iterdir()} == {
        *("0", "1", "0_2", "1_2")
    }


def test_a_sweep_can_be_checked_without_being_run(in_process: InProcess, workspace: Path) -> None:
    status, out, err = in_process("check", "-m", "sweep=gb", "model.max_depth=2,3")
    assert status == 0, err
    assert "Nothing is wrong with these arguments: 50 trials." in out
    status, _, err = in_process(
        *("check", "-m", "sweep=gb", "model.max_depth=0,3", "tracking.uri=http://127.0.0.1:9")
    )
    assert status == 1
    assert "error: model.max_depth: must be greater than 0, got 0" in err.splitlines()
    status, _, err = in_process("check", "-m", "seed=1,2", "tracking.uri=http://127.0.0.1:9")
    assert status == 1
    assert "can't be reached" in err
    assert {path.name for path in workspace.iterdir()} <= {"multirun", "outputs"}


def test_a_sweep_that_trains_here_ends_without_a_complaint(
    command_line: CommandLine, workspace: Path
) -> None:
    done = command_line(
        *("train", "-m", HERE, "model=mlp", "training.max_epochs=2", "seed=1,2"),
        *("tracking=disabled", "sweep.max_failure_rate=0"),
    )
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""


def test_a_folder_in_the_place_of_the_best_model_is_told_before_anything_runs(
    in_process: InProcess, workspace: Path
) -> None:
    (workspace / "mine").mkdir()
    (workspace / "mine" / "thesis.txt").write_text("precious")
    status, _, err = in_process(*GRID, "seed=1,2", "model_path=mine")
    assert status == 1
    assert "'mine'" in err
    assert not (workspace / "mlflow.db").exists()
    assert (workspace / "mine" / "thesis.txt").read_text() == "precious"
