"""Fabric and optimizers without the compiler, and the compiler as ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from ml_project_template.training.lean_imports import import_fabric, without_compiler

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


def test_a_step_with_fabric_imports_no_compiler_and_no_trainer() -> None:
    heavy = _last_line(
        "import json, sys, torch\n"
        "from ml_project_template.training.fabric import make_fabric\n"
        "from ml_project_template.training.lean_imports import without_compiler\n"
        "fabric = make_fabric('cpu', '32-true')\n"
        "for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):\n"
        "    module = torch.nn.Linear(3, 2)\n"
        "    optimizer = without_compiler(kind)(module.parameters(), lr=0.1, fused=True)\n"
        "    wrapped, steps = fabric.setup(module, optimizer)\n"
        "    steps.zero_grad()\n"
        "    fabric.backward(wrapped(torch.ones(4, 3)).sum())\n"
        "    fabric.clip_gradients(wrapped, steps, max_norm=1.0)\n"
        "    steps.step()\n"
        "    steps.load_state_dict(steps.state_dict())\n"
        f"print(json.dumps([name for name in {_HEAVY!r} if name in sys.modules]))"
    )
    assert heavy == []


# One process for all: each imports the whole of lightning and of torch's compiler.
@pytest.mark.long
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


@pytest.mark.parametrize("arguments", [{}, {"weight_decay": 0.1}, {"fused": True}])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_takes_the_steps_of_torchs_own(
    kind: type[torch.optim.Adam], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a process that has the compiler already, such as this one may be.
    monkeypatch.setattr("ml_project_template.training.lean_imports._COMPILER", "not imported")
    lean = without_compiler(kind)
    assert lean is not kind
    weights = []
    for optimizer_class in (kind, lean):
        parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = optimizer_class([parameter], lr=0.1, **arguments)
        for _ in range(3):
            optimizer.zero_grad()
            torch.autograd.backward((parameter**2).sum())
            optimizer.step()
        assert optimizer.step(lambda: 3.0) == 3.0
        weights.append(parameter.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_a_compiler_that_is_there_needs_no_lean_optimizer() -> None:
    import torch._dynamo

    assert without_compiler(torch.optim.Adam) is torch.optim.Adam
    assert import_fabric() is sys.modules["lightning.fabric"]
