"""Fabric without the compiler, and the compiler as ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

_HEAVY = ("lightning.pytorch", "torchmetrics", "torch._dynamo", "matplotlib", "scipy", "sympy")


def _last_line(code: str) -> object:
    """Run code in a fresh process and give what it printed last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_fabric_is_imported_without_compiler_and_trainer() -> None:
    heavy = _last_line(
        "import json, sys, torch\n"
        "from ml_project_template.training.fabric import make_fabric\n"
        "fabric = make_fabric('cpu', '32-true')\n"
        "wrapped = fabric.setup_module(torch.nn.Linear(3, 2))\n"
        "fabric.backward(wrapped(torch.ones(4, 3)).sum())\n"
        f"print(json.dumps([name for name in {_HEAVY!r} if name in sys.modules]))"
    )
    assert heavy == []


# One process for all: each imports the whole of lightning and of torch's compiler.
def test_compiler_trainer_metrics_and_optimizers_work_as_ever_afterwards() -> None:
    found = _last_line(
        "import json, sys, torch\n"
        "from ml_project_template.training.fabric import make_fabric\n"
        "fabric = make_fabric('cpu', '32-true')\n"
        "late = 'torch._dynamo' not in sys.modules\n"
        "import lightning, lightning.fabric.wrappers as wrappers\n"
        "fabric_class = lightning.Fabric is type(fabric) is lightning.fabric.Fabric\n"
        "import torchmetrics\n"
        "accuracy = torchmetrics.classification.BinaryAccuracy()\n"
        "measured = float(accuracy(torch.tensor([1, 0]), torch.tensor([1, 1])))\n"
        # Compiled by the user before it is given to Fabric, which has to see that.
        "module = torch.nn.Linear(3, 2)\n"
        "compiled = torch.compile(module, backend='aot_eager')\n"
        "optimizer = torch.optim.Adam(module.parameters(), lr=0.1)\n"
        "wrapped, steps = fabric.setup(compiled, optimizer)\n"
        "recognised = wrappers._unwrap_compiled(compiled)[0] is module\n"
        "before = module.weight.detach().clone()\n"
        "fabric.backward(wrapped(torch.ones(4, 3)).sum())\n"
        "steps.step()\n"
        "moved = not torch.equal(before, module.weight)\n"
        "class Module(lightning.LightningModule):\n"
        "    pass\n"
        "print(json.dumps({\n"
        "    'late': late,\n"
        "    'fabric': fabric_class,\n"
        "    'measured': measured,\n"
        "    'compiled': type(wrapped._forward_module).__name__,\n"
        "    'recognised': recognised,\n"
        "    'is_wrapped': lightning.fabric.is_wrapped(wrapped),\n"
        "    'moved': moved,\n"
        "    'trainer': lightning.Trainer.__module__,\n"
        "    'module': Module.__mro__[1].__module__,\n"
        "    'version': lightning.__version__ == lightning.fabric.__version__,\n"
        "    'metric': lightning.pytorch.core.module.Metric is torchmetrics.Metric,\n"
        "    'exported': sorted(set(lightning.__all__) - set(dir(lightning))),\n"
        "}))"
    )
    assert found == {
        "late": True,
        "fabric": True,
        "measured": 0.5,
        "compiled": "OptimizedModule",
        "recognised": True,
        "is_wrapped": True,
        "moved": True,
        "trainer": "lightning.pytorch.trainer.trainer",
        "module": "lightning.pytorch.core.module",
        "version": True,
        "metric": True,
        "exported": [],
    }


def test_whoever_imports_lightning_first_has_it_all() -> None:
    same = _last_line(
        "import json, lightning\n"
        "from ml_project_template.training.lean_imports import import_fabric\n"
        "print(json.dumps(import_fabric() is lightning.fabric))"
    )
    assert same is True
