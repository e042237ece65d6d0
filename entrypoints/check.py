"""Tell everything that is wrong with train's arguments, and run nothing."""

from __future__ import annotations

from omegaconf import DictConfig

from entrypoints._problems import training_problems
from entrypoints._shell import entrypoint, run
from entrypoints._sweeper import CheckingSweeper
from ml_project_template.errors import ConfigError

__all__ = ["check"]


def check(cfg: DictConfig) -> list[str]:
    """Find everything that would stop a training with this configuration.

    Args:
        cfg: The configuration of ``entrypoints.train``.

    Returns:
        A line for each problem: settings, data, storage, tracking. Empty if there is none.
    """
    return training_problems(cfg)


@entrypoint("check", problems=training_problems, sweeper=CheckingSweeper)
def main(cfg: DictConfig) -> None:
    """Run the check from the command line."""
    problems = check(cfg)
    if problems:
        raise ConfigError("\n".join(problems))
    print("Nothing is wrong with these arguments.")


if __name__ == "__main__":
    run(main)
