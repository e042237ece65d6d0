"""Name whatever could do harm as the class of a model, and see that none of it is run.

    python -m tests.soak.hostile_targets

A configuration may come from somebody else, and ``_target_`` names what is called. Here it names
each function and class of the modules that can do harm, from the standard library to those of this
project that import them, as a model, as a data set and inside of their arguments. Each has to be
refused by one of our errors. An audit hook sees whether anything was run, opened for writing or
connected to. The exit status is 1 if so, or if anything was not refused.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from entrypoints._targets import build
from ml_project_template.data.table import RawTable
from ml_project_template.errors import ProjectError
from ml_project_template.models import BaseModel, ModelRegistry
from tests.soak.mutated_models import watch

MODULES = (
    *("builtins", "os", "posix", "subprocess", "shutil", "socket", "pickle", "marshal", "runpy"),
    *(
        "importlib",
        "code",
        "codeop",
        "ctypes",
        "pty",
        "webbrowser",
        "tempfile",
        "pathlib",
        "signal",
    ),
    *("urllib.request", "http.server", "multiprocessing", "threading", "sys", "gc", "platform"),
    *("joblib", "numpy", "pandas", "torch", "torch.hub", "torch.utils.collect_env", "skops.io"),
    *(
        "torch.utils.cpp_extension",
        "hydra.utils",
        "omegaconf",
        "yaml",
        "mlflow",
        "sklearn.datasets",
    ),
    *("ml_project_template.artifacts", "ml_project_template.models.base", "entrypoints._shell"),
    *("ml_project_template.utils.io", "ml_project_template.utils.directories"),
    *("ml_project_template.models.registry", "ml_project_template.tracking.client"),
)
# Names that reach a module through one that is trusted, or that are no names at all.
PATHS = (
    "ml_project_template.artifacts.shutil.rmtree",
    "ml_project_template.artifacts.os.system",
    "ml_project_template.models.base.importlib.import_module",
    "ml_project_template.models.registry.ModelRegistry.load",
    "ml_project_template.models.BaseModel",
    "ml_project_template.models.BaseModel.load",
    "ml_project_template.models.MLPClassifier.train",
    "ml_project_template.models.__builtins__.eval",
    "ml_project_template.models.MLPClassifier.__init__.__globals__",
    "ml_project_template.__loader__.get_data",
    "ml_project_template",
    "ml_project_template.",
    ".ml_project_template.models.MLPClassifier",
    "ml_project_template..models.MLPClassifier",
    "ml_project_template.models.MLPClassifier\n",
    "ml_project_templateX.models.MLPClassifier",
    "os.system;ml_project_template.models.MLPClassifier",
    "${oc.env:HOME}",
    "",
)


def targets() -> Iterator[str]:
    """Name what a configuration must not call."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in sorted(vars(module)):
            if callable(getattr(module, name, None)) and not name.startswith("__"):
                yield f"{module_name}.{name}"
    yield from PATHS


def nodes(target: str) -> Iterator[dict[str, Any]]:
    """Write a target into configurations, in each way that Hydra knows."""
    mark = "touch marked"
    yield {"_target_": target}
    yield {"_target_": target, "_args_": [mark]}
    yield {"_target_": target, "_partial_": True}
    model = "ml_project_template.models.MLPClassifier"
    yield {"_target_": model, "layer_dims": {"_target_": target, "_args_": [mark]}}
    yield {"_target_": model, "layer_dims": [4, {"_target_": target, "command": mark}, 3]}


def attack(names: list[str]) -> tuple[int, list[str]]:
    """Try targets.

    Args:
        names: Their names.

    Returns:
        How many configurations were tried, and what was not as it ought to be, a line each.
    """
    seen: list[str] = []
    wrong: list[str] = []
    tried = 0
    # What is imported by the first good one is no doing of the others.
    good = {"_target_": "ml_project_template.models.MLPClassifier", "layer_dims": [4, 3]}
    build(OmegaConf.create(good), BaseModel, where="model")  # type: ignore[type-abstract]
    with tempfile.TemporaryDirectory() as folder:
        watch(folder, seen)
        for name in names:
            for kind, where in ((BaseModel, "model"), (RawTable, "data")):
                for node in nodes(name):
                    seen.clear()
                    tried += 1
                    try:
                        build(OmegaConf.create(node), kind, where=where)
                    except ProjectError as error:
                        if "\n" in str(error).strip() and "\n" not in name:
                            wrong.append(f"{name}: more than a line: {error}")
                    except Exception as error:
                        wrong.append(f"{name}: {type(error).__name__}: {error}")
                    else:
                        wrong.append(f"{name}: was not refused")
                    if seen:
                        wrong.append(f"{name}: {', '.join(seen)}")
    return tried, wrong


def main() -> int:
    """Run it from the command line."""
    names = list(targets())
    ModelRegistry.list()
    tried, wrong = attack(names)
    counts = Counter(name.split(".")[0] for name in names)
    print(", ".join(f"{count} of {name}" for name, count in counts.most_common(8)), "and others")
    for line in wrong[:20]:
        print(f"  {line[:300]}")
    print(f"{len(names)} targets in {tried} configurations: {len(wrong)} not refused")
    return int(bool(wrong) or Path("marked").exists())


if __name__ == "__main__":
    sys.exit(main())
