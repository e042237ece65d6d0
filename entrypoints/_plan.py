"""From a command with ``-m`` to the study it means: composed, checked and frozen at its start."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from entrypoints._composition import composition_problems, own_words
from entrypoints._job import can_stand_aside, task_config
from entrypoints._problems import argument_problems, training_problems
from entrypoints._shell import plain
from entrypoints._training import metric_of
from entrypoints._trial import Recipe, group_choices
from entrypoints.preprocess import preprocess
from ml_project_template.errors import ConfigError
from ml_project_template.sweeps.options import SweepOptions, read_options
from ml_project_template.sweeps.results import Objective
from ml_project_template.sweeps.space import (
    Distribution,
    choice,
    combinations,
    describe,
    extremes,
    grid,
    override_text,
    parse_space,
)
from ml_project_template.utils.secrets import find_secrets, redact_mapping

if TYPE_CHECKING:
    from ml_project_template.data.signature import Task
    from ml_project_template.models.base import BaseModel

__all__ = ["Plan", "make_plan", "plan_problems", "prepare_data"]

log = logging.getLogger(__name__)

# Groups are composed and checked for each of their combinations before anything starts.
_MOST_BASES = 200
# What says where things are and how the work is divided does not change what is found.
_ELSEWHERE = (
    "checkpoint",
    "experiment_name",
    "model_path",
    "resume",
    "run_name",
    "storage",
    "tracking",
)
_DIVIDED = (
    "heartbeat",
    "log_models",
    "log_plots",
    "max_failure_rate",
    "n_jobs",
    "n_trials",
    "resume",
    "storage",
    "study_name",
    "together",
)


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Attributes:
        options: The settings below ``sweep.``.
        objectives: What trials are compared by, by the names that their runs have for it.
        distributions: Override key to what it may be.
        points: The points of a grid; None where a sampler chooses.
        seeds: What each trial of a search is repeated with.
        recipe: How the configuration of a trial is made.
        design: All that changes what is found, as plain JSON without secrets.
        name: What the study is called unless the command says so.
        models: The classes that are trained.
        defaults: What each choice of groups brings along, before anything else is set.
        globs: The groups whose choices were not named, but all taken: ``model=glob(*)``.
        most_rows: Training rows of the largest table, once it is prepared.
    """

    options: SweepOptions
    objectives: tuple[Objective, ...]
    distributions: dict[str, Distribution]
    points: tuple[dict[str, Any], ...] | None
    seeds: tuple[int, ...]
    recipe: Recipe
    design: dict[str, Any]
    name: str
    models: tuple[type[BaseModel], ...]
    defaults: dict[tuple[tuple[str, str], ...], DictConfig]
    globs: frozenset[str]
    most_rows: int = 0

    @property
    def together(self) -> int:
        """How many fits a worker may run in one go, those of folds and seeds among them."""
        return self.options.fits_together(self.most_rows)

    @property
    def trials_together(self) -> int:
        """How many trials a worker claims at once."""
        bases = self.recipe.bases.values()
        stacked = any(hasattr(model, "fit_job") for model in self.models)
        if not stacked or not all(can_stand_aside(base) for base in bases):
            return 1
        fits = 1
        if self.options.pruner == "none" or len(self.objectives) > 1:
            # Otherwise folds and seeds come one after the other.
            fits = max(base.cv or 1 for base in bases) * max(1, len(self.seeds))
        return self.options.trials_together(self.most_rows, self.n_trials, fits)

    @property
    def n_trials(self) -> int:
        """How many trials the study is to have."""
        if self.points is None:
            assert self.options.n_trials is not None
            return self.options.n_trials
        return min(self.options.n_trials or len(self.points), len(self.points))

    @property
    def experiment_name(self) -> str:
        """Which experiment all runs go to: MLflow shows a run and those below it in one."""
        names = {str(base.experiment_name) for base in self.recipe.bases.values()}
        return names.pop() if len(names) == 1 else "sweeps"

    @property
    def fingerprint(self) -> str:
        """What equal designs have in common."""
        text = json.dumps(self.design, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def make_plan(config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> Plan:
    """Read, compose and check what a sweep is to do.

    Args:
        config: What Hydra has composed of all that is fixed.
        loader: Composes the configuration of a job.
        arguments: The overrides of the command line.

    Raises:
        ConfigError: All that is wrong, a line each, before anything is run.
    """
    options = read_options(plain(config.sweep))
    space = parse_space(options.search_space, arguments, loader)
    distributions = dict(space.distributions)
    seeds: tuple[int, ...] = ()
    points: tuple[dict[str, Any], ...] | None = None
    if options.is_grid:
        points, distributions = grid(distributions)
    else:
        seeds = _seeds(distributions.pop("seed", None))
        if not distributions:
            raise ConfigError(
                f"sweep.search_space: sampler {options.sampler} has nothing to choose. Give some "
                "settings several values, such as 'training.lr=interval(0.001,0.1)'"
            )
        if options.n_trials is None:
            raise ConfigError(
                f"sweep.n_trials: is required for sampler {options.sampler}, such as 50"
            )
    groups = tuple(key for key in distributions if _is_group(key, loader))
    bases = _compose(config, loader, space.fixed, distributions, groups)
    left_out = _unfit(bases, space.globs, lambda texts: _lacks_packages(bases[texts]))
    recipe = Recipe(_kept(bases, left_out), groups, str(config.hydra.sweep.dir))
    distributions, points = _without(left_out, distributions, points)
    _check(recipe, distributions, options, seeds)
    first = next(iter(recipe.bases.values()))
    objectives = tuple(
        Objective(metric_of(objective.metric, first.cv), objective.direction)
        for objective in options.objectives()
    )
    return Plan(
        options=options,
        objectives=objectives,
        distributions=distributions,
        points=points,
        seeds=seeds,
        recipe=recipe,
        design=_design(config, recipe, distributions, seeds),
        name=_name(recipe),
        models=_models(recipe),
        defaults=_defaults(config, loader, recipe),
        globs=space.globs,
    )


def _seeds(distribution: Distribution | None) -> tuple[int, ...]:
    """Read the seeds that each trial of a search is repeated with: none is better than another."""
    if distribution is None:
        return ()
    point_values = [point["seed"] for point in combinations({"seed": distribution})]
    if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in point_values):
        raise ConfigError(f"seed: must be whole numbers, got {point_values}")
    return tuple(point_values)


def plan_problems(plan: Plan) -> list[str]:
    """Find what would stop the trials of a plan besides their settings: data, storage, tracking."""
    found: list[str] = []
    for texts in plan.recipe.bases:
        found += _job_problems(_first_trial(plan, texts), training_problems)
    return list(dict.fromkeys(found))


def prepare_data(plan: Plan) -> Plan:
    """Prepare the data of the trials, once for all of them that share them.

    Args:
        plan: What is to be tried.

    Returns:
        The plan, with the digests of the data in its design: other rows are another study. Of
        ``model=glob(*)`` it has the models that can learn from these data.

    Raises:
        ConfigError: No model can.
        DataError: The table can't be used as it is.
    """
    found: dict[str, tuple[str, Task]] = {}
    most_rows = 0
    tasks: dict[tuple[str, ...], Task] = {}
    for texts in plan.recipe.bases:
        task = task_config(_first_trial(plan, texts))
        key = json.dumps([plain(task[name]) for name in ("data", "preprocessing", "storage")])
        if key not in found:
            prepared = preprocess(task)
            found[key] = (prepared.digest, prepared.train.task)
            most_rows = max(most_rows, len(prepared.train))
        tasks[texts] = found[key][1]

    def refuses_task(texts: tuple[str, ...]) -> str | None:
        try:
            _model_of(plan.recipe.bases[texts]).for_task(tasks[texts])
        except ConfigError as error:
            return str(error).removeprefix("model: ")
        return None

    left_out = _unfit(plan.recipe.bases, plan.globs, refuses_task)
    recipe = replace(plan.recipe, bases=_kept(plan.recipe.bases, left_out))
    distributions, points = _without(left_out, plan.distributions, plan.points)
    design = {**plan.design, "data": [digest for digest, _ in found.values()]}
    if left_out:
        space = {**design["sweep"]["search_space"], **describe({"model": distributions["model"]})}
        design["sweep"] = {**design["sweep"], "search_space": space}
    return replace(
        plan,
        design=design,
        distributions=distributions,
        models=_models(recipe),
        most_rows=most_rows,
        points=points,
        recipe=recipe,
    )


def _unfit(
    bases: Mapping[tuple[str, ...], DictConfig],
    globs: frozenset[str],
    problem_of: Callable[[tuple[str, ...]], str | None],
) -> dict[str, str]:
    """Find the choices that ``model=glob(*)`` has taken along and that can't be trained.

    A model that is named is not looked at: who names it wants to know what is wrong with it.

    Args:
        bases: The configuration of a job for each choice of the groups that are tried.
        globs: The groups whose choices were not named.
        problem_of: Says why a model can't be trained with these choices; None if it can.

    Returns:
        Override text to what is wrong with it.

    Raises:
        ConfigError: No choice is left.
    """
    if "model" not in globs:
        return {}
    problems: dict[str, list[str | None]] = {}
    for texts in bases:
        (model,) = (text for text in texts if text.partition("=")[0] == "model")
        problems.setdefault(model, []).append(problem_of(texts))
    left_out = {text: found[0] for text, found in problems.items() if found[0] and all(found)}
    if len(left_out) == len(problems):
        raise ConfigError("\n".join(f"{text}: {problem}" for text, problem in left_out.items()))
    for text, problem in left_out.items():
        log.warning("Sweep: %s is left out: %s", text, problem)
    return left_out


def _lacks_packages(base: DictConfig) -> str | None:
    missing = [name for name in _model_of(base).packages if not _is_installed(name)]
    return f"{', '.join(missing)} is not installed" if missing else None


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _kept(
    bases: Mapping[tuple[str, ...], DictConfig], left_out: Mapping[str, str]
) -> dict[tuple[str, ...], DictConfig]:
    return {texts: base for texts, base in bases.items() if not left_out.keys() & set(texts)}


def _without(
    left_out: Mapping[str, str],
    distributions: Mapping[str, Distribution],
    points: tuple[dict[str, Any], ...] | None,
) -> tuple[dict[str, Distribution], tuple[dict[str, Any], ...] | None]:
    """Take choices out of what is tried."""
    if not left_out:
        return dict(distributions), points
    models = [
        value
        for value in extremes(distributions["model"])
        if override_text("model", value) not in left_out
    ]
    narrowed = {**distributions, "model": choice("model", models)}
    if points is not None:
        points = tuple(point for point in points if point["model"] in models)
    return narrowed, points


def _first_trial(plan: Plan, texts: Sequence[str]) -> DictConfig:
    """Make the configuration of a trial with these choices and the first of all other values."""
    params = {key: extremes(d)[0] for key, d in plan.distributions.items()} | _choices(texts)
    return plan.recipe.config(params, 0)[0]


def _is_group(key: str, loader: ConfigLoader) -> bool:
    name = key.lstrip("+").split("@")[0]
    return "." not in name and bool(loader.get_group_options(name))


def _compose(
    config: DictConfig,
    loader: ConfigLoader,
    fixed: Sequence[str],
    distributions: Mapping[str, Distribution],
    groups: Sequence[str],
) -> dict[tuple[str, ...], DictConfig]:
    """Compose a configuration for each choice of the groups that are tried."""
    choices = [
        [override_text(key, value) for value in extremes(distributions[key])] for key in groups
    ]
    products = list(itertools.product(*choices))
    if len(products) > _MOST_BASES:
        raise ConfigError(
            f"{', '.join(groups)}: {len(products)} combinations of groups are more than "
            f"{_MOST_BASES}: split the sweep"
        )
    bases = {}
    problems: list[str] = []
    for texts in products:
        try:
            bases[texts] = loader.load_sweep_config(config, [*fixed, *texts])
        except HydraException as error:
            lines = _explain(config, [*fixed, *texts])
            problems += lines or [" ".join(str(error).split())]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return bases


def _explain(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    words = [*own_words(config.hydra), *overrides]
    return composition_problems(config.hydra.job.config_name, words)[0]


def _check(
    recipe: Recipe,
    distributions: Mapping[str, Distribution],
    options: SweepOptions,
    seeds: Sequence[int],
) -> None:
    """Find what no trial could run with: unknown keys, and values that their settings refuse."""
    others = {
        key: _telling(extremes(d)) for key, d in distributions.items() if key not in recipe.groups
    }
    problems: list[str] = []
    for texts, base in recipe.bases.items():
        # As many configurations as the longest list of values: the n-th has the n-th of each.
        for place in range(max((len(values) for values in others.values()), default=1)):
            point = {key: values[min(place, len(values) - 1)] for key, values in others.items()}
            params = {**_choices(texts), **point}
            try:
                cfg, _ = recipe.config(params, 0)
            except HydraException:
                words = [override_text(key, value) for key, value in params.items()]
                problems += _explain(base, [*base.hydra.overrides.task, *words])
                break
            problems += _job_problems(cfg, argument_problems)
        if base.data.val_size == 0 and base.cv is None:
            problems.append(
                f"sweep.metric: {options.metrics[0]} needs validation rows, and data.val_size is "
                "0: set it, or cv=5"
            )
    for seed in seeds:
        if not 0 <= seed < 2**32:
            problems.append(f"seed: must be at least 0 and less than 2**32, got {seed}")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _telling(values: Sequence[Any]) -> Sequence[Any]:
    """Keep the values that show whether a setting takes all of them: of numbers, both ends."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return sorted({min(values), max(values)})
    return values


def _choices(texts: Sequence[str]) -> dict[str, str]:
    pairs = (text.partition("=") for text in texts)
    return {key: value for key, _, value in pairs}


def _job_problems(cfg: DictConfig, find: Callable[[DictConfig], list[str]]) -> list[str]:
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        return find(task_config(cfg))
    finally:
        HydraConfig.instance().cfg = before


def _design(
    config: DictConfig,
    recipe: Recipe,
    distributions: Mapping[str, Distribution],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Gather all that changes what a sweep finds."""
    settings = {}
    for texts, base in recipe.bases.items():
        task = task_config(base)
        with open_dict(task):
            for key in ("sweep", *_ELSEWHERE):
                del task[key]
            # The digest stands for the file, wherever it is.
            for key in ("path", "source"):
                del task.data[key]
            name = None if OmegaConf.is_interpolation(task.data, "name") else task.data.name
            task.data.name = name
        settings[" ".join(texts)] = plain(task)
    options = {key: value for key, value in plain(config.sweep).items() if key not in _DIVIDED}
    space = describe(distributions)
    design = {
        "settings": settings,
        "sweep": {**options, "search_space": space, "seeds": list(seeds)},
    }
    plain_design: dict[str, Any] = json.loads(json.dumps(design, default=str))
    hidden: dict[str, Any] = redact_mapping(plain_design, find_secrets(plain_design))
    return hidden


def _name(recipe: Recipe) -> str:
    """Call a study by its data and its model, or by what is compared."""
    parts = []
    for group, many in (("data", "data"), ("model", "models")):
        found = {_group_name(base, group) for base in recipe.bases.values()}
        parts.append(found.pop() if len(found) == 1 else many)
    return re.sub(r"[^\w.-]+", "_", "_".join(parts)).strip("._") or "sweep"


def _group_name(base: DictConfig, group: str) -> str:
    if group == "data":
        return str(base.data.name)
    return str(base.hydra.runtime.choices[group])


def _defaults(
    config: DictConfig, loader: ConfigLoader, recipe: Recipe
) -> dict[tuple[tuple[str, str], ...], DictConfig]:
    choices = {tuple(group_choices(base)) for base in recipe.bases.values()}
    return {
        chosen: loader.load_sweep_config(config, [f"{group}={name}" for group, name in chosen])
        for chosen in choices
    }


def _models(recipe: Recipe) -> tuple[type[BaseModel], ...]:
    return tuple(dict.fromkeys(_model_of(base) for base in recipe.bases.values()))


def _model_of(base: DictConfig) -> type[BaseModel]:
    from entrypoints._targets import target_class
    from ml_project_template.models.base import BaseModel

    return target_class(base.model, BaseModel, where="model")  # type: ignore[type-abstract]
