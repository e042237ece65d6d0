"""What every model can do: train, save, load, predict."""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib
import inspect
import json
import logging
import math
import operator
import os
import platform
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.data.one_hot import OneHot, OneHotDataset
from ml_project_template.data.signature import Signature, check_answers
from ml_project_template.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    DivergenceError,
    ModelError,
    ProjectError,
    RegistryError,
    unknown,
)
from ml_project_template.models._capture import RECORD, plain_json, recorded
from ml_project_template.models._judging import check_splits, draw, judge, measure
from ml_project_template.models._steps import Steps, run_steps
from ml_project_template.models.registry import ModelRegistry
from ml_project_template.signing import check_signer
from ml_project_template.training.checkpoints import (
    Checkpoints,
    CheckpointSettings,
    beside,
    open_checkpoints,
)
from ml_project_template.training.metrics import resolve_class_weight, softmax
from ml_project_template.training.progress import progress_reporter
from ml_project_template.training.reporting import History, MultiReporter, Reporter
from ml_project_template.training.thresholds import Threshold, choose_threshold
from ml_project_template.unsent import keep_model
from ml_project_template.utils.arguments import check_arguments
from ml_project_template.utils.collecting import collecting_as_usual, import_large
from ml_project_template.utils.environment import environment_state, package_version
from ml_project_template.utils.git import git_state
from ml_project_template.utils.io import is_remote, read_json, write_json
from ml_project_template.utils.names import flatten
from ml_project_template.utils.secrets import find_secrets, redact_mapping
from ml_project_template.utils.seed import seed_everything

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

    from ml_project_template.data.preprocessing import Preprocessor
    from ml_project_template.data.signature import Task
    from ml_project_template.data.tabular import TabularDataset
    from ml_project_template.models._onnx import ScoreGraph
    from ml_project_template.tracking import Run, Tracker

__all__ = ["BaseModel", "ModelParts", "SaveModel", "TrainingReport"]

SaveModel = Literal["best", "final"]

_logger = logging.getLogger(__name__)

_MAX_HISTORY = 200

_CHECKED_ROWS = 65_536

# Arguments of `_fit` that `train` gives by itself.
_GIVEN_BY_TRAIN = frozenset({"train_data", "val_data", "save_model", "seed"})


@dataclass(frozen=True)
class TrainingReport:
    """What came out of a training.

    Attributes:
        metrics: Final metrics by name, such as ``val_accuracy``, for each split that was given.
        history: What the fit reported, a row for each epoch or boosting stage.
        model_path: Where the model was saved; None if it was not.
        run_id: The tracker's id of the run; None without tracking.
        experiment_id: The tracker's id of the run's experiment; None without tracking.
        seconds: How long it all took.
    """

    metrics: dict[str, float]
    history: list[dict[str, float]] = field(repr=False)
    model_path: str | None
    run_id: str | None
    experiment_id: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What a model directory holds beside the model itself.

    Attributes:
        preprocessor: What brings raw rows into the form that ``predict`` takes.
        signature: The raw features and the class names.
        metadata: How the model came about.
        num_features: How many prepared features it takes.
    """

    preprocessor: Preprocessor
    signature: Signature
    metadata: dict[str, Any]
    num_features: int


class BaseModel(ABC):
    """A model that trains, saves, loads and predicts in the same way as all others.

    A subclass takes plain JSON values in its constructor, and implements ``_fit``, ``predict``,
    ``_save_weights`` and ``_load_weights``. Its constructor's arguments are recorded by themselves
    and stored in ``config.json``, so that ``load`` builds the same object again. Decorate it with
    ``@register`` to have it found by name.

    Attributes:
        preprocessor: What brings raw rows into the form that ``predict`` takes.
        signature: The raw features and the class names.
        metadata: How the model came about: versions, commit, seed, data, metrics.
        history: What the last fit reported, a row for each epoch or boosting stage.
    """

    task: ClassVar[Task] = "classification"
    """Whether it predicts classes or numbers."""

    takes_categories: ClassVar[bool] = False
    """Whether ``X`` may hold categories, as codes: see ``BaseDataset.cardinalities``.

    Otherwise each has a column of zeros and ones for each of its levels, in ``_fit`` as in what
    ``_features`` gives: a model for numbers alone works on any table.
    """

    packages: ClassVar[tuple[str, ...]] = ("numpy", "pandas", "safetensors")
    """Distributions that a saved model needs to be loaded; their versions go into its metadata."""

    seed_matters: ClassVar[bool] = True
    """Whether another seed gives another model, with the constructor's defaults."""

    _runtime_params: ClassVar[frozenset[str]] = frozenset({"accelerator", "devices", "precision"})
    """Constructor arguments that say where a model runs: no part of ``config.json``."""

    preprocessor: Preprocessor | None = None
    signature: Signature | None = None
    _model_params: dict[str, Any]
    _n_features: int | None = None
    _reporter: Reporter | None = None
    _checkpoints: Checkpoints | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            init = recorded(cls, cls.__dict__["__init__"])
            cls.__init__ = init  # type: ignore[method-assign]

    def __init__(self) -> None:
        # A subclass without a constructor of its own has nothing recorded yet.
        self.__dict__.setdefault(RECORD, {})
        self.history: list[dict[str, float]] = []
        self.metadata: dict[str, Any] = {}

    # ---- what a subclass implements

    @abstractmethod
    def _fit(
        self, train_data: BaseDataset, val_data: BaseDataset | None = None, **arguments: Any
    ) -> None:
        """Fit the model.

        A subclass names its training arguments, with types and defaults: they are checked before
        anything starts. One that names ``seed`` or ``save_model`` is given them. It calls
        ``self.report`` after each epoch or boosting stage.

        Args:
            train_data: Prepared training rows.
            val_data: Prepared validation rows.
            **arguments: The training arguments.
        """

    @abstractmethod
    def predict(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[Any]:
        """Predict raw scores.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``; a DataFrame is read by the
                names of its columns.

        Returns:
            Scores of shape ``(n_samples, n_classes)``: the highest is the class, and their softmax
            are the probabilities. Of a regression the numbers, of shape ``(n_samples,)``.

        Raises:
            ModelError: The model is not fitted.
            DataError: Another number of features, or values that are no numbers.
        """

    @abstractmethod
    def _save_weights(self, directory: Path) -> None:
        """Write what was learned into a directory, as safetensors or skops."""

    @abstractmethod
    def _load_weights(self, directory: Path) -> None:
        """Read what ``_save_weights`` wrote, and check it before it is used."""

    def _adapt(self, train_data: BaseDataset) -> None:  # noqa: B027 - most models need nothing
        """Fill in what the constructor left open, before the fit, also in ``_model_params``.

        Args:
            train_data: Prepared training rows.
        """

    @classmethod
    def warm_up(cls) -> None:
        """Import what a training needs and its class does not: a sweep does so once for all.

        Called before the workers of a sweep are forked: nothing here may start a thread or touch a
        device.
        """
        importlib.import_module("safetensors.numpy")

    @classmethod
    def accepts_missing(cls, params: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """Say whether ``predict`` takes missing values.

        Args:
            params: The arguments of the constructor.
        """
        return True

    def inference_tensors(self) -> dict[str, NDArray[Any]]:
        """Give what ``score_graph`` needs beside the file of the weights, if that is no plain one.

        Returns:
            Arrays of finite numbers by name.
        """
        return {}

    @classmethod
    def score_graph(
        cls,
        params: Mapping[str, Any],  # noqa: ARG003
        tensors: Mapping[str, NDArray[Any]],  # noqa: ARG003
        n_features: int,  # noqa: ARG003
        num_classes: int,  # noqa: ARG003
    ) -> ScoreGraph | None:
        """Write ``predict`` as an ONNX graph, so that a server needs nothing of what fitted it.

        For a regression the graph's scores have the shape ``(n_samples, 1)``.

        Args:
            params: The arguments of the constructor.
            tensors: The arrays of ``weights.safetensors``, if there are, and those of
                ``inference_tensors``. They come out of a file and have to be checked.
            n_features: How many features there are, as ``_features`` gives them.
            num_classes: How many classes there are; 0 for a regression.

        Returns:
            The graph, from prepared rows to raw scores; None if the model has none: a server then
            calls ``predict``.

        Raises:
            ArtifactError: The arrays are not those of such a model.
        """
        return None

    def feature_importances(self) -> NDArray[np.float64] | None:
        """Say how much each feature matters to the model.

        Returns:
            Importances of shape ``(n_features,)``, of the features as ``_features`` gives them,
            that sum to 1; None if the model has none.
        """
        return None

    # ---- what a user calls

    @classmethod
    def for_task(cls, task: Task) -> type[BaseModel]:
        """Find the class that does for a task what this one does for its own.

        Of ``mlp_classifier`` and ``mlp_regressor`` each stands for the other.

        Args:
            task: The task of the data.

        Returns:
            This class where the task is its own.

        Raises:
            ConfigError: There is none.
        """
        if cls.task == task:
            return cls
        name = ModelRegistry.name_of(cls)
        endings = {"classification": "_classifier", "regression": "_regressor"}
        sibling = name.removesuffix(endings[cls.task]) + endings[task]
        try:
            found: type[BaseModel] = ModelRegistry.get(sibling)
        except RegistryError:
            found = cls
        if found.task != task:
            raise ConfigError(
                f"model: a {name} is for {cls.task}, and the target is one for {task}; there is no "
                f"model '{sibling}'. Choose another model, or set data.task={cls.task}."
            )
        return found

    def get_params(self) -> dict[str, Any]:
        """Return the parameters of the model, as they are logged."""
        return copy.deepcopy(self._model_params)

    def train(
        self,
        *,
        experiment_name: str,
        train_data: TabularDataset,
        val_data: TabularDataset | None = None,
        test_data: TabularDataset | None = None,
        model_path: str | os.PathLike[str] | None = None,
        run_name: str | None = None,
        save_model: SaveModel = "best",
        threshold: Threshold = None,
        seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None,
        tracking: bool | Tracker = True,
        config: Mapping[str, Any] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        checkpoint: CheckpointSettings | None = None,
        reporters: Sequence[Reporter] = (),
        progress: bool = True,
        **training_arguments: Any,
    ) -> TrainingReport:
        """Fit the model, judge it, save it and keep a record of all that.

        Args:
            experiment_name: The tracker's experiment.
            train_data: Rows to learn from, prepared or raw.
            val_data: Rows to stop by and to choose the best weights by.
            test_data: Rows to judge by at the end, and for nothing else.
            model_path: The model directory to write, local or remote; None keeps the model in
                memory and in the tracker.
            run_name: The tracker's name for the run; None lets it choose.
            save_model: Keep the model of the lowest validation loss (``best``) or the last one
                (``final``). Without ``val_data`` both are the last one.
            threshold: The probability from which on the second of two classes is predicted, saved
                with the model; or the metric of the validation rows (the training rows without
                them) that it is to make largest, ``f1`` or ``balanced_accuracy``. None predicts the
                more probable class.
            seed: Makes the training reproducible; None draws anew each time.
            tracking: True for MLflow, False for no record, or a tracker.
            config: The composed configuration, kept as a record with its secrets hidden.
            storage_options: For a remote ``model_path``.
            checkpoint: Where checkpoints of the fit are kept, and whether to go on from one; None
                keeps none. Networks keep any. A run of MLflow is gone on with, too.
            reporters: Who else hears of each epoch or boosting stage. One may end the fit by
                raising ``StopTraining``, or the whole training by raising anything else.
            progress: Show how far the fit has come.
            **training_arguments: For the model's own fit, such as ``max_epochs``.

        Returns:
            The final metrics, the history, and where the model and the run are.

        Raises:
            ConfigError: A wrong argument; all of them are named.
            DataError: Data that the model can't learn from.
            DivergenceError: The loss is no longer a number. A network has the best weights until
                then; with `checkpoint` they are kept beside ``model_path``, in ``.diverged/``.
            ArtifactError: The model can't be written to ``model_path``. One that a remote storage
                does not take at the end is kept in ``.unsent/``, from where it can be sent later.
            TrackingError: The tracker can't be reached.
        """
        return run_steps(
            self.steps_of_training(
                experiment_name=experiment_name,
                train_data=train_data,
                val_data=val_data,
                test_data=test_data,
                model_path=model_path,
                run_name=run_name,
                save_model=save_model,
                threshold=threshold,
                seed=seed,
                tracking=tracking,
                config=config,
                storage_options=storage_options,
                checkpoint=checkpoint,
                reporters=reporters,
                progress=progress,
                **training_arguments,
            )
        )

    def steps_of_training(
        self,
        *,
        experiment_name: str,
        train_data: TabularDataset,
        val_data: TabularDataset | None = None,
        test_data: TabularDataset | None = None,
        model_path: str | os.PathLike[str] | None = None,
        run_name: str | None = None,
        save_model: SaveModel = "best",
        threshold: Threshold = None,
        seed: int | None = None,
        tracking: bool | Tracker = True,
        config: Mapping[str, Any] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        checkpoint: CheckpointSettings | None = None,
        reporters: Sequence[Reporter] = (),
        progress: bool = True,
        **training_arguments: Any,
    ) -> Steps[TrainingReport]:
        """Train as ``train`` does, but leave the fit to whoever goes on with it.

        So the fits of several models can be run in one go; see `models._steps`. A model whose fit
        is no job, such as a booster, is fitted on the way.

        Yields:
            The fit, if it is a job of its own. It goes on when it is sent how that ended.

        Returns:
            As ``train``, which has the arguments and what is raised.
        """
        started = time.perf_counter()
        _check_save_model(save_model)
        if seed is not None and not isinstance(seed, bool) and hasattr(seed, "__index__"):
            # NumPy's whole numbers too, as in `for seed in np.arange(5)`.
            seed = operator.index(seed)
        training_arguments = {
            key: plain_json(value, f"training.{key}") for key, value in training_arguments.items()
        }
        problems = self.training_problems(training_arguments)
        problems += check_arguments(type(self), self._model_params, where="model")
        if problems:
            raise ConfigError("\n".join(problems))
        name = ModelRegistry.name_of(type(self))
        splits = {
            split: data
            for split, data in (("train", train_data), ("val", val_data), ("test", test_data))
            if data is not None
        }
        check_splits(splits)
        if train_data.task != self.task:
            sibling = self.for_task(train_data.task)
            raise ConfigError(
                f"model: a {name} is for {self.task}, and '{train_data.target_column}' is a target "
                f"for {train_data.task}: use {sibling.__name__}."
            )
        if threshold is not None and train_data.num_classes != 2:
            raise ConfigError(
                f"threshold={threshold}: is for two classes, and the data have "
                f"{train_data.target_text}"
            )
        path = None if model_path is None else os.fspath(model_path)
        if path is not None:
            artifacts.check_target(path, storage_options=storage_options)
        check_signer()
        if seed is not None:
            seed_everything(seed)
        self._n_features = None
        splits = self._describe(splits)
        train_data = splits["train"]
        views = {split: self._view(data) for split, data in splits.items()}
        self._adapt(views["train"])
        arguments = {**_defaults(self._fit), **training_arguments}
        weights = resolve_class_weight(
            arguments.get("class_weight"), train_data.y, train_data.num_classes
        )
        secrets = find_secrets(config)
        safe_config = redact_mapping(config, secrets)

        from ml_project_template.tracking import DisabledTracker, MLflowTracker, RunReporter
        from ml_project_template.tracking import Tracker as TrackerBase

        tracker: Tracker
        if isinstance(tracking, bool):
            tracker = MLflowTracker() if tracking else DisabledTracker()
        elif isinstance(tracking, TrackerBase):
            tracker = tracking
        else:
            raise ConfigError(f"tracking must be True, False or a tracker, got {tracking!r}.")
        parameters = {
            "model": self.get_params(),
            "training": arguments,
            "seed": seed,
            "save_model": save_model,
        }
        with ExitStack() as opened:
            checkpoints = None
            if checkpoint is not None:
                checkpoints = opened.enter_context(
                    open_checkpoints(
                        checkpoint,
                        path,
                        lambda: {"model": name, **flatten(parameters), "data": _identity(splits)},
                        storage_options=storage_options,
                    )
                )
            logged = 0
            if checkpoints is not None and checkpoints.run_id is not None:
                run = opened.enter_context(tracker.continue_run(checkpoints.run_id))
                logged = tracker.last_step(checkpoints.run_id, "epoch/train_loss")
            else:
                run = opened.enter_context(
                    tracker.start_run(experiment_name=experiment_name, run_name=run_name)
                )
            run.log_params(
                # As they are: the run hides secrets, and learns here what to hide in its log.
                {**flatten(config or {}), **flatten(parameters)}
            )
            run.log_tags({"model": name})
            if safe_config is not None:
                run.log_text(_as_yaml(safe_config), "config.yaml")
            for split, data in splits.items():
                _log_dataset(run, split, data)

            if seed is not None:
                # Again: what came before, such as a tracker, may have drawn numbers.
                seed_everything(seed)
            history = History()
            if checkpoints is not None:
                checkpoints.run_id = run.id
                # One list: what is reported from now on is a part of each checkpoint.
                history.rows = checkpoints.history
            to_run = RunReporter(run, after=logged)
            for row in history.rows:
                # What a killed process had not sent yet.
                numbers = {name: value for name, value in row.items() if name != "step"}
                to_run.report(int(row["step"]), numbers)
            diverged: DivergenceError | None = None
            with ExitStack() as stack:
                shown = [stack.enter_context(progress_reporter(name))] if progress else []
                self._reporter = MultiReporter(history, *shown, to_run, *reporters)
                self._checkpoints = checkpoints
                try:
                    yield from self._steps_of_fit(
                        views["train"],
                        views.get("val"),
                        **training_arguments,
                        **self._wanted(save_model=save_model, seed=seed),
                    )
                except DivergenceError as error:
                    self.history = history.rows
                    if not error.good_epoch:
                        raise
                    self._n_features = train_data.num_features
                    if checkpoints is None or path is None:
                        raise
                    diverged = error
                finally:
                    self._reporter = self._checkpoints = None
            self.history = history.rows
            self._n_features = train_data.num_features
            if threshold is not None:
                self._set_threshold(threshold, splits.get("val", train_data))

            metrics, confusion = judge(self, splits, weights)
            if diverged is None:
                run.log_metrics(metrics)
            git = git_state()
            self.metadata = {
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": {package: package_version(package) for package in self.packages},
                "python": platform.python_version(),
                "environment": environment_state(),
                "git": {"commit": git.commit, "dirty": git.dirty},
                "seed": seed,
                "save_model": save_model,
                "training": arguments,
                "class_weight": None if weights is None else weights.tolist(),
                "num_features": self._n_features,
                "data": {
                    "name": train_data.name,
                    "digest": train_data.digest,
                    "source": train_data.source,
                    "rows": {split: len(data) for split, data in splits.items()},
                },
                "metrics": metrics,
                "history": _thinned(history.rows),
                "confusion_matrices": confusion,
                "config": safe_config,
                "run_id": run.id,
            }
            if diverged is not None and path is not None:
                self.metadata["diverged"] = str(diverged)
                kept = self._save_or_keep(beside(path, ".diverged"), storage_options)
                raise DivergenceError(
                    f"{diverged} The model of epoch {diverged.good_epoch} is kept in '{kept}'.",
                    good_epoch=diverged.good_epoch,
                ) from diverged
            # First of all: what can fail from here on is not worth the model.
            saved = None
            if path is not None:
                saved = self._save_or_keep(path, storage_options)
            if run.wants_plots:
                self._log_plots(run, splits, history)
            if run.wants_model:
                self._log_model(run)
        return TrainingReport(
            metrics=metrics,
            history=self.history,
            model_path=saved,
            run_id=run.id,
            experiment_id=run.experiment_id,
            seconds=time.perf_counter() - started,
        )

    def _steps_of_fit(
        self, train_data: BaseDataset, val_data: BaseDataset | None, **arguments: Any
    ) -> Steps[None]:
        """Fit the model; one that can say what its fit needs leaves it to others."""
        with collecting_as_usual():
            self._fit(train_data, val_data, **arguments)
        yield from ()

    def _save_or_keep(self, path: str, storage_options: Mapping[str, Any] | None) -> str:
        """Save the model, or keep it on this machine if its storage does not take it."""
        try:
            return self.save(path, storage_options=storage_options)
        except Exception as error:
            # Whatever it is, such as an error of a store's client that nobody has seen yet: the
            # model is kept.
            if not is_remote(path):
                raise
            with tempfile.TemporaryDirectory() as scratch:
                directory = Path(self.save(Path(scratch) / "model"))
                kept = keep_model(directory, path, storage_options)
            raise ArtifactError(
                f"{error} The trained model is kept in '{kept}': python -m entrypoints.sync sends "
                "it later."
            ) from error

    def evaluate(self, data: TabularDataset) -> dict[str, float]:
        """Judge the model on labelled rows.

        Args:
            data: Prepared rows with the classes of the training.

        Returns:
            What `classification_metrics` or `regression_metrics` computes.

        Raises:
            DataError: Another task or other classes than those of the training.
        """
        if data.task != self.task:
            raise DataError(
                f"'{data.name}' has a target for {data.task}, and the model is for {self.task}."
            )
        if self.signature is not None and data.class_names != self.signature.class_names:
            raise DataError(
                f"'{data.name}' has the classes {', '.join(data.class_names)}; the model knows "
                f"{', '.join(self.signature.class_names)}."
            )
        weights = self.metadata.get("class_weight")
        outputs = self.predict(data)
        assert self.signature is not None
        return measure(
            data,
            outputs,
            self.signature,
            None if weights is None else np.asarray(weights, dtype=np.float64),
        )

    def predict_proba(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float64]:
        """Predict probabilities: the softmax of ``predict``.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``.

        Returns:
            Probabilities of shape ``(n_samples, n_classes)``; each row sums to 1.

        Raises:
            ModelError: The model is not fitted, or predicts numbers.
            DataError: Another number of features, or values that are no numbers.
        """
        if self.task == "regression":
            raise ModelError(f"A {type(self).__qualname__} predicts numbers: call predict().")
        return softmax(self.predict(X))

    def answer(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float64]:
        """Predict what is told of a row: probabilities, or a number.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``.

        Returns:
            Shape ``(n_samples, n_classes)``, or ``(n_samples, 1)`` for a regression; float64.

        Raises:
            ModelError: The model is not fitted.
            DataError: Another number of features, values that are no numbers, or values to which
                the model's answer is none.
        """
        if self.task == "regression":
            return check_answers(np.asarray(self.predict(X), dtype=np.float64).reshape(-1, 1))
        return check_answers(np.asarray(self.predict_proba(X), dtype=np.float64))

    def report(self, step: int, metrics: Mapping[str, float], total: int | None = None) -> None:
        """Tell whoever listens how the fit goes; called by ``_fit``.

        Args:
            step: The epoch or boosting stage, counted from 1.
            metrics: Numbers by name, such as ``{"train_loss": 0.3}``.
            total: How many steps there will be at most.

        Raises:
            StopTraining: A listener wants the fit to end; the model of now is to be kept.
        """
        if self._reporter is not None:
            self._reporter.report(step, metrics, total)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
    ) -> str:
        """Write the model directory, as a whole or not at all.

        Args:
            path: The directory, local or remote. A model that is there is replaced.
            storage_options: For a remote directory.

        Returns:
            The path.

        Raises:
            ModelError: The model is not fitted.
            RegistryError: The class is not registered, so it could not be loaded.
            ArtifactError: Something else is at the path.
        """
        self._check_fitted()
        name = ModelRegistry.name_of(type(self))

        def write(directory: Path) -> None:
            artifacts.write_config(directory, name=name, params=self._model_params)
            self._save_weights(directory)
            parts = {
                artifacts.PREPROCESSING: self.preprocessor and self.preprocessor.to_dict(),
                artifacts.SIGNATURE: self.signature and self.signature.to_dict(),
                artifacts.METADATA: self.metadata,
            }
            for file_name, content in parts.items():
                write_json(str(directory / file_name), content)
            artifacts.save_tensors(
                directory / artifacts.INFERENCE,
                {**self.inference_tensors(), **self._probe()},
            )

        return artifacts.write_model_directory(
            os.fspath(path), write, storage_options=storage_options
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read a model directory, after it was verified against its manifest.

        Args:
            path: The directory, local or remote, or what a tracking server knows:
                ``runs:/<run id>/model`` or ``models:/<name>@<alias>``.
            storage_options: For a remote directory.

        Returns:
            The model, ready to predict. On ``BaseModel`` its class is found from the name in
            ``config.json``; on another class that name must be its own.

        Raises:
            ArtifactError: No model directory, a damaged one, or one of another model.
            RegistryError: The model's class is not registered.
        """
        source = os.fspath(path)
        if source.startswith(("runs:/", "models:/")):
            from ml_project_template.tracking import download_model

            source, storage_options = download_model(source), None
        with artifacts.open_model_directory(source, storage_options=storage_options) as directory:
            config = artifacts.read_config(directory)
            model_class = ModelRegistry.get(config["name"])
            if not issubclass(model_class, cls):
                raise ArtifactError(
                    f"'{source}' holds a {config['name']}, not a {cls.__qualname__}: load it with "
                    "ModelRegistry.load."
                )
            with _as_artifact_error(source):
                model = model_class.read(directory)
        return model

    @classmethod
    def training_problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        """Check training arguments without training.

        Args:
            arguments: Names and values, as for ``train``.

        Returns:
            A line for each problem, such as ``training.lr: must be greater than 0, got -1.0``.
        """
        return check_arguments(cls._fit, arguments, where="training", ignore=_GIVEN_BY_TRAIN)

    # ---- helpers for subclasses

    def _features(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float32]:
        """Bring what ``predict`` was given into shape.

        Args:
            X: Prepared features.

        Returns:
            Shape ``(n_samples, n_features)``, float32, C-contiguous.

        Raises:
            ModelError: The model is not fitted.
            DataError: Another shape, or values that are no numbers.
        """
        n_features = self._check_fitted()
        if isinstance(X, BaseDataset):
            X = X.X
        elif hasattr(X, "columns"):
            X = self._by_name(X)
        try:
            values = np.asarray(X)
            if values.dtype.kind not in "biuf":
                values = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"X must hold numbers only: {error}") from error
        if values.ndim != 2:
            raise DataError(
                f"X must have the shape (n_samples, {n_features}), got {values.shape}: a single "
                "row is [[...]]."
            )
        if values.shape[1] != n_features:
            raise DataError(f"The model takes {n_features} features, X has {values.shape[1]}.")
        with np.errstate(over="ignore"):
            features: NDArray[np.float32] = np.ascontiguousarray(values, dtype=np.float32)
        encoder = self._encoder()
        return features if encoder is None else encoder.transform(features)

    @classmethod
    def encoder(cls, preprocessor: Preprocessor | None) -> OneHot | None:
        """Give what makes zeros and ones of categories, for a model that takes none.

        Args:
            preprocessor: What prepares the rows.

        Returns:
            The encoder; None where there are no categories, or the model takes them as codes.
        """
        if cls.takes_categories or preprocessor is None or not preprocessor.levels_:
            return None
        return OneHot(preprocessor.cardinalities_)

    def _encoder(self) -> OneHot | None:
        return self.encoder(self.preprocessor)

    def _width(self) -> int:
        """Count the columns that ``_features`` gives."""
        encoder = self._encoder()
        return self._check_fitted() if encoder is None else encoder.width

    def _view(self, data: TabularDataset) -> BaseDataset:
        """Give a prepared data set the form that the model learns from."""
        encoder = self._encoder()
        return data if encoder is None else OneHotDataset(data, encoder)

    def _by_name(self, frame: Any) -> Any:
        """Pick the columns of a DataFrame in the order of the features."""
        names = list(self._feature_names())
        columns = list(frame.columns)
        if not names or not any(isinstance(column, str) for column in columns):
            return frame
        for name in names:
            if name not in columns:
                close = difflib.get_close_matches(name, map(str, columns), n=1, cutoff=0.5)
                hint = f" Did you mean '{close[0]}' by it?" if close else ""
                raise DataError(
                    f"X lacks the feature '{name}'.{hint} It has: {', '.join(map(str, columns))}."
                )
        return frame[names]

    def _feature_names(self) -> tuple[str, ...]:
        """Name the prepared features; empty if their names are not known."""
        return () if self.preprocessor is None else self.preprocessor.output_names_

    def _column_names(self) -> tuple[str, ...]:
        """Name the columns that ``_features`` gives; empty if their names are not known."""
        encoder = self._encoder()
        names = self._feature_names()
        if encoder is None or self.preprocessor is None:
            return names
        return tuple(encoder.names(names, self.preprocessor.output_levels_))

    @staticmethod
    def _require_finite(
        X: NDArray[np.float32],
        names: tuple[str, ...] = (),
        cardinalities: Sequence[int] = (),
    ) -> None:
        """Refuse missing and infinite values, for a model that can't take them.

        Args:
            X: Features of shape ``(n_samples, n_features)``.
            names: Their names, for the message.
            cardinalities: Which of them are categories, that may be missing.

        Raises:
            DataError: Names the first such row and feature.
        """
        row = column = -1
        # Block by block: what is found out has a quarter of the size of the features.
        for start in range(0, len(X), _CHECKED_ROWS):
            wrong = ~np.isfinite(X[start : start + _CHECKED_ROWS])
            if any(cardinalities):
                wrong &= np.asarray(cardinalities) == 0
            if wrong.any():
                row, column = (int(index) for index in np.argwhere(wrong)[0])
                row += start
                break
        if row < 0:
            return
        name = f"'{names[column]}'" if column < len(names) else str(column + 1)
        what = "missing" if np.isnan(X[row, column]) else "infinite"
        raise DataError(
            f"Row {row + 1}: feature {name} is {what}, and this model needs a number: use "
            "preprocessing=standardize, which fills gaps in."
        )

    def _check_fitted(self) -> int:
        """Return the number of features, or raise ``ModelError`` before the fit."""
        if self._n_features is None:
            raise ModelError(
                f"This {type(self).__qualname__} is not fitted: call train() on it, or load one."
            )
        return self._n_features

    # ---- the steps of train and load

    def _probe(self) -> dict[str, NDArray[np.float64]]:
        """Answer the probe rows: by these answers a server checks its own arithmetic."""
        if self.signature is None or self.preprocessor is None:
            return {}
        takes_gaps = self.takes_gaps(self._model_params, self.preprocessor)
        rows = self.signature.probe_rows(missing=takes_gaps)
        try:
            return {artifacts.PROBE: self.answer(self.preprocessor.transform_array(rows))}
        except Exception as error:
            # Whatever a model of somebody's own says to such rows, it is trained and is to be
            # saved. A server then loads the model itself.
            _logger.debug("No answers to the probe rows: %s", error)
            return {}

    @classmethod
    def takes_gaps(cls, params: Mapping[str, Any], preprocessor: Preprocessor) -> bool:
        """Say whether raw rows may have gaps: they are filled in, or the model takes them.

        Args:
            params: The arguments of the constructor.
            preprocessor: What prepares the rows.
        """
        return preprocessor.impute is not None or cls.accepts_missing(params)

    @classmethod
    def check_params(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        """Check the constructor's arguments out of a ``config.json``, without calling it.

        Args:
            params: Names and values.

        Returns:
            They, and the defaults of those that are not there.

        Raises:
            ArtifactError: One is unknown, missing or of the wrong kind.
        """
        problems = [
            f"config.json.{name}: where a model runs is no part of it"
            for name in params
            if name in cls._runtime_params
        ]
        problems += check_arguments(cls, params, where="config.json")
        if problems:
            raise ArtifactError(problems[0])
        parameters = inspect.signature(cls).parameters
        return {
            **{
                name: parameter.default
                for name, parameter in parameters.items()
                if parameter.default is not parameter.empty and name not in cls._runtime_params
            },
            **params,
        }

    @classmethod
    def _build(cls, params: Mapping[str, Any]) -> Self:
        cls.check_params(params)
        return cls(**params)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read a verified copy of a model directory; ``load`` does so for any place.

        Args:
            directory: What ``artifacts.open_model_directory`` gave.

        Raises:
            ArtifactError: Its content is not that of such a model.
        """
        model = cls._build(artifacts.read_config(directory)["params"])
        parts = cls.read_parts(directory)
        model.preprocessor, model.signature = parts.preprocessor, parts.signature
        model.metadata, model._n_features = parts.metadata, parts.num_features
        model._load_weights(directory)
        return model

    @classmethod
    def read_parts(cls, directory: Path) -> ModelParts:
        """Read what a model directory holds beside the model itself.

        Args:
            directory: What ``artifacts.open_model_directory`` gave.

        Raises:
            ArtifactError: A file is damaged.
            DataError: A file holds something else.
        """
        from ml_project_template.data.preprocessing import Preprocessor

        def read(file_name: str) -> Any:
            return read_json(str(directory / file_name))

        preprocessor = Preprocessor.from_dict(read(artifacts.PREPROCESSING))
        signature = Signature.from_dict(read(artifacts.SIGNATURE))
        metadata = read(artifacts.METADATA)
        n_features = metadata.get("num_features") if isinstance(metadata, dict) else None
        if type(n_features) is not int or n_features < 1:
            raise ArtifactError("metadata.json: num_features must be a positive number.")
        prepared = len(preprocessor.output_names_)
        if n_features != prepared:
            raise ArtifactError(
                f"metadata.json: num_features is {n_features}, preprocessing.json makes {prepared}."
            )
        return ModelParts(preprocessor, signature, metadata, n_features)

    def _describe(self, splits: Mapping[str, TabularDataset]) -> dict[str, TabularDataset]:
        """Take the preprocessor and the signature from the training rows; prepare raw ones."""
        from ml_project_template.data.preprocessing import Preprocessor

        train_data = splits["train"]
        if train_data.preprocessor is not None:
            self.preprocessor = train_data.preprocessor
            self.signature = train_data.signature
            return dict(splits)
        # Raw numbers are what the model takes: nothing is filled in, nothing is scaled.
        self.preprocessor = Preprocessor(impute=None, scale=None).fit(train_data)
        self.signature = train_data.signature or Signature.from_dataset(train_data)
        if not (self.preprocessor.levels_ or self.preprocessor.dates_):
            return dict(splits)
        return {split: self.preprocessor.transform(data) for split, data in splits.items()}

    def _set_threshold(self, threshold: Threshold, data: TabularDataset) -> None:
        assert self.signature is not None
        chosen = choose_threshold(threshold, data.y, self.predict_proba(data))
        self.signature = replace(self.signature, threshold=chosen)

    def _wanted(self, **offered: Any) -> dict[str, Any]:
        """Keep what ``_fit`` names among its parameters."""
        parameters = inspect.signature(self._fit).parameters
        return {name: value for name, value in offered.items() if name in parameters}

    def _log_plots(self, run: Run, splits: Mapping[str, TabularDataset], history: History) -> None:
        import_large("ml_project_template.training.plots")
        from ml_project_template.training import plots

        figures = draw(self, splits, history)
        importances = self.feature_importances()
        if importances is not None:
            names = self._feature_names() or splits["train"].feature_names
            encoder = self._encoder()
            if encoder is not None and len(importances) == encoder.width:
                importances = encoder.sum_by_feature(importances)
            figures["feature_importance"] = plots.feature_importance(names, importances)
        for name, figure in figures.items():
            run.log_bytes(plots.save_png(figure), f"plots/{name}.png")

    def _log_model(self, run: Run) -> None:
        assert self.signature is not None
        # A copy of its own: another training may have replaced the one at the model's path.
        with tempfile.TemporaryDirectory() as scratch:
            run.log_model(
                self.save(Path(scratch) / "model"),
                signature=self.signature,
                sample=self.signature.sample,
                requirements=self.packages,
            )


def _identity(splits: Mapping[str, TabularDataset]) -> dict[str, Any]:
    """Tell the rows of a training from others: by their files, their targets and what was learned.

    The order of the targets is that of the rows, and what prepares them has been fitted to them.
    """
    preprocessor = splits["train"].preprocessor
    found: dict[str, Any] = {
        split: {
            "rows": len(data),
            "file": data.digest,
            "features": hashlib.sha256(repr(data.feature_names).encode()).hexdigest()[:16],
            "targets": hashlib.sha256(np.ascontiguousarray(data.y).data).hexdigest()[:16],
        }
        for split, data in splits.items()
    }
    if preprocessor is not None:
        state = json.dumps(preprocessor.to_dict(), sort_keys=True)
        found["preprocessing"] = hashlib.sha256(state.encode()).hexdigest()[:16]
    return found


def _check_save_model(save_model: str) -> None:
    if save_model not in get_args(SaveModel):
        raise ConfigError(unknown("save_model", save_model, get_args(SaveModel)))


def _defaults(fit: Any) -> dict[str, Any]:
    """Read the defaults of the training arguments from the signature of ``_fit``."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(fit).parameters.items()
        if name not in _GIVEN_BY_TRAIN and parameter.default is not parameter.empty
    }


def _thinned(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Keep enough of the steps for a curve, the first and the last among them."""
    step = max(1, math.ceil(len(history) / _MAX_HISTORY))
    kept = [dict(row) for row in history[::step]]
    if history and (len(history) - 1) % step:
        kept.append(dict(history[-1]))
    return kept


def _as_yaml(config: Any) -> str:
    import yaml

    # In C where PyYAML was built with it: a configuration takes a quarter of the time.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(config, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text


def _log_dataset(run: Run, split: str, data: TabularDataset) -> None:
    run.log_dataset(
        data.name,
        digest=data.digest,
        source=data.source,
        context=split,
        schema={"features": list(data.feature_names), "classes": list(data.class_names)},
        profile={"rows": len(data), "features": data.num_features},
    )


@contextmanager
def _as_artifact_error(source: str) -> Iterator[None]:
    """Name the model directory in whatever is wrong with its content."""
    try:
        yield
    except ProjectError as error:
        raise ArtifactError(f"'{source}': {error}") from error
