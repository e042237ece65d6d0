"""Trainings that stop at their fits: several go on side by side, and each ends by itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ml_project_template.data import TabularDataset
from ml_project_template.models import GBClassifier, MLPClassifier
from ml_project_template.models._steps import OwnLog, Steps, run_steps, steps_together
from ml_project_template.training import loop


def _training(
    told: list[str], name: str, *, before: Callable[[], Any] = str, after: Callable[[], Any] = str
) -> Steps[str]:
    told.append(f"{name} begins")
    try:
        before()
        yield []
        after()
        return name.upper()
    finally:
        told.append(f"{name} ends")


def _raise(error: BaseException) -> Callable[[], Any]:
    def run() -> None:
        raise error

    return run


def test_what_begins_first_ends_last() -> None:
    told: list[str] = []
    names = run_steps(steps_together([_training(told, "a"), _training(told, "b")]))
    assert names == ["A", "B"]
    assert told == ["a begins", "b begins", "b ends", "a ends"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_error_ends_its_own_training_alone(moment: str, error: BaseException) -> None:
    told: list[str] = []
    failing = _training(told, "b", **{moment: _raise(error)})
    found = run_steps(steps_together([_training(told, "a"), failing, _training(told, "c")]))
    assert found == ["A", error, "C"]
    assert sorted(told) == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_who_is_asked_to_stop_ends_all_by_that(moment: str) -> None:
    told: list[str] = []
    seen: list[BaseException] = []

    @contextmanager
    def noting() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            seen.append(error)
            raise

    def noted(name: str, **more: Any) -> Steps[str]:
        result = ""
        with noting():
            result = yield from _training(told, name, **more)
        return result

    stop = KeyboardInterrupt()
    trainings = [noted("a"), noted("b", **{moment: _raise(stop)})]
    with pytest.raises(KeyboardInterrupt):
        run_steps(steps_together(trainings))
    assert seen == [stop, stop]
    assert told[-1] == "a ends"


def test_each_logs_to_what_it_has_opened_itself(caplog: pytest.LogCaptureFixture) -> None:
    lines: dict[str, list[str]] = {"a": [], "b": []}

    class Listing(logging.Handler):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.lines = lines[name]

        def emit(self, record: logging.LogRecord) -> None:
            self.lines.append(record.getMessage())

    def training(name: str) -> Steps[None]:
        handler = Listing(name)
        root = logging.getLogger()
        root.addHandler(handler)
        logging.getLogger("x").warning("%s before", name)
        yield []
        logging.getLogger("x").warning("%s after", name)
        root.removeHandler(handler)

    before = list(logging.getLogger().handlers)
    run_steps(steps_together([training("a"), training("b")], [OwnLog(), OwnLog()]))
    assert lines == {"a": ["a before", "a after"], "b": ["b before", "b after"]}
    assert logging.getLogger().handlers == before
    assert [record.getMessage() for record in caplog.records] == [
        *("a before", "b before", "b after", "a after")
    ]


def test_a_network_stops_at_its_fit_and_a_booster_is_fitted_on_the_way(
    raw_iris: TabularDataset,
) -> None:
    settings: dict[str, Any] = {"experiment_name": "x", "train_data": raw_iris}
    network = MLPClassifier(layer_dims=[None, 4, None])
    steps = network.steps_of_training(**settings, tracking=False, max_epochs=1)
    (fit,) = next(steps)
    before = network.module_
    with pytest.raises(StopIteration) as end:
        steps.send([loop.fit(fit.fabric, fit.job)])
    assert before is None
    assert network.module_ is fit.job.module
    assert end.value.value.metrics["train_loss"] > 0
    booster = GBClassifier(max_iter=2).steps_of_training(**settings, tracking=False)
    with pytest.raises(StopIteration):
        next(booster)


def test_somebodys_own_fit_is_run_as_it_is(raw_iris: TabularDataset) -> None:
    called = []

    class Own(MLPClassifier):
        def _fit(  # type: ignore[override]
            self, train_data: Any, val_data: Any = None, **arguments: Any
        ) -> None:
            called.append(arguments)
            super()._fit(train_data, val_data, **arguments)

    model = MLPClassifier(layer_dims=[None, 4, None])
    model.__class__ = Own
    steps = model._steps_of_fit(raw_iris, None, max_epochs=1)
    model._adapt(raw_iris)
    with pytest.raises(StopIteration):
        next(steps)
    assert called == [{"max_epochs": 1}]
    assert model.module_ is not None
