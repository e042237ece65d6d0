"""A model and its YAML in a package outside of this repository."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tests.conftest import ROOT, CommandLine


def test_a_model_of_somebody_else_trains_reloads_and_predicts(
    command_line: CommandLine, workspace: Path
) -> None:
    package = workspace / "their_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nearest_mean.py").write_text(_example("python", "class NearestMeanClassifier"))
    (workspace / "their_conf" / "model").mkdir(parents=True)
    yaml = _example("yaml", "NearestMeanClassifier").replace("my_package", "their_package")
    (workspace / "their_conf" / "model" / "nearest_mean.yaml").write_text(yaml)
    env = {
        "PYTHONPATH": f"{ROOT}:{workspace}",
        "ML_PROJECT_PACKAGES": "their_package.nearest_mean",
    }
    trained = command_line(
        *("train", "--config-dir", "their_conf", "model=nearest_mean", "model.power=1.5"), env=env
    )
    assert trained.returncode == 0, trained.stderr
    path = ".models/iris_nearest_mean"
    assert f"model.path={path}" in trained.stdout
    evaluated = command_line("evaluate", f"model.path={path}", env=env)
    accuracy = next(line for line in evaluated.stdout.splitlines() if line.startswith("accuracy"))
    assert float(accuracy.split()[1]) > 0.8
    scored = command_line(
        *("predict", f"model.path={path}", "input=.data/raw/iris.csv", "output=out.csv"), env=env
    )
    assert scored.returncode == 0, scored.stderr
    assert "probability_setosa" in (workspace / "out.csv").read_text().splitlines()[0]

    untrusted = command_line(
        "evaluate", f"model.path={path}", env={"PYTHONPATH": env["PYTHONPATH"]}
    )
    assert untrusted.returncode == 1
    assert "nearest_mean_classifier" in untrusted.stderr
    assert "ML_PROJECT_PACKAGES" in untrusted.stderr


def _example(language: str, part: str) -> str:
    """Find the code block of the README that shows a part of the example."""
    blocks = (ROOT / "README.md").read_text().split(f"```{language}\n")[1:]
    (found,) = [block.split("```")[0] for block in blocks if part in block]
    return textwrap.dedent(found)
