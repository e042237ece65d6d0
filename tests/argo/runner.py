"""A small Argo: runs a WorkflowTemplate's containers as processes of this machine.

It resolves parameters as Argo does (the template as JSON, each value escaped for it), applies
``templateDefaults``, walks the DAG by its ``depends``, fans out ``withParam`` and ``withSequence``,
retries, and runs the exit handler. Variables and commands are expanded as Kubernetes does. A step
gets its own empty folders and nothing of the environment but what its manifest says. What it does
not know it refuses.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import yaml

ROOT = Path(__file__).resolve().parents[2]

TAG = re.compile(r"\{\{([^{}]+)\}\}")
_SECONDS_OF_A_STEP = 240

# What decides where, how safely and how long pods run and are kept: nothing that a process has.
_OF_PODS = {"imagePullPolicy", "resources", "securityContext", "image"}
_SPEC = {
    *("entrypoint", "onExit", "arguments", "templates", "templateDefaults", "parallelism"),
    *("serviceAccountName", "automountServiceAccountToken", "executor", "securityContext"),
    *("activeDeadlineSeconds", "ttlStrategy", "podGC", "volumes"),
}
_TEMPLATE = {
    *("name", "inputs", "metadata", "retryStrategy", "podSpecPatch", "synchronization"),
    *("container", "dag"),
}
_CONTAINER = {"command", "args", "env", "envFrom", "workingDir", "volumeMounts", *_OF_PODS}
_TASK = {"name", "template", "depends", "arguments", "withParam", "withSequence"}
_RETRY = {"limit", "retryPolicy", "expression", "backoff"}


@dataclass
class Node:
    """A step, one of its attempts, or the workflow as a whole.

    Attributes:
        name: As Argo shows it: ``train``, an attempt ``train(0)``, one of several ``work(2:2)``.
        template: The template.
        phase: ``Succeeded``, ``Failed``, ``Error`` or ``Omitted``.
        exit_code: Of the process; -1 where there was none.
        message: What is said of its end.
        output: What the process has printed.
        started: When, in seconds of a clock.
        finished: When, in seconds of the same clock.
    """

    name: str
    template: str
    phase: str
    exit_code: int = -1
    message: str = ""
    output: str = ""
    started: float = 0.0
    finished: float = 0.0


@dataclass
class Result:
    """What came out of a workflow."""

    name: str
    phase: str
    nodes: list[Node]

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    @property
    def failures(self) -> list[Node]:
        return [node for node in self.nodes if node.phase in ("Failed", "Error")]

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.phase}"]
        for node in self.nodes:
            lines.append(f"--- {node.name}: {node.phase} {node.message}")
            lines.append(node.output)
        return "\n".join(lines)


class UnsupportedError(Exception):
    """Something that this runner does not do, or that Argo would refuse."""


@dataclass
class Runner:
    """Runs workflows of one template.

    Attributes:
        template: The WorkflowTemplate, as it stands in its file.
        folder: Where steps have their folders.
        config: What is in each ``configMapRef <name>`` and ``secretRef <name>``.
        seconds_per_second: How long a second of back-off takes.
        cpus: The most processors that a pod gets, whatever it asks for: this is a small machine.
        on_start: Called with the name of each attempt and its process.
        python: What runs for ``python``.
    """

    template: Mapping[str, Any]
    folder: Path
    config: Mapping[str, Mapping[str, str]]
    seconds_per_second: float = 0.0
    cpus: int = 1
    on_start: Callable[[str, subprocess.Popen[str]], None] = field(default=lambda *_: None)
    python: Sequence[str] = (sys.executable,)

    def run(self, name: str, **parameters: str) -> Result:
        """Run a workflow, as ``argo submit --from workflowtemplate/... --name ... -p ...`` does.

        Args:
            name: The workflow's name.
            **parameters: Its parameters; an underscore stands for a hyphen.
        """
        spec = copy.deepcopy(dict(self.template["spec"]))
        _refuse_unknown(spec, _SPEC, "spec")
        given = {key.replace("_", "-"): value for key, value in parameters.items()}
        scope = {"workflow.name": name, **_workflow_parameters(spec, given)}
        run = _Run(self, spec, scope, name)
        phase = run.execute(spec["entrypoint"], name, {}).phase
        if "onExit" in spec:
            failed = [node for node in run.nodes if node.phase in ("Failed", "Error")]
            scope |= {"workflow.status": phase, "workflow.failures": _failures(failed, name)}
            ended = run.execute(spec["onExit"], f"{name}.onExit", {})
            phase = phase if ended.phase == "Succeeded" else ended.phase
        return Result(name, phase, run.nodes)


def load(path: Path) -> dict[str, Any]:
    """Read the one document of a file."""
    document: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return document


class _Run:
    """One workflow under way."""

    def __init__(
        self, runner: Runner, spec: dict[str, Any], scope: dict[str, str], name: str
    ) -> None:
        self.runner = runner
        self.scope = scope
        self.name = name
        self.templates = {template["name"]: template for template in spec["templates"]}
        self.defaults = spec.get("templateDefaults", {})
        self.volumes = {volume["name"] for volume in spec.get("volumes", [])}
        self.nodes: list[Node] = []
        self._pods = threading.Semaphore(spec.get("parallelism", 1_000))

    def execute(self, template_name: str, name: str, inputs: Mapping[str, str]) -> Node:
        """Run a template, with its retries."""
        if template_name not in self.templates:
            raise UnsupportedError(f"there is no template {template_name!r}")
        template = with_defaults(self.templates[template_name], self.defaults)
        _refuse_unknown(template, _TEMPLATE, template_name)
        names = {each["name"] for each in template.get("inputs", {}).get("parameters", [])}
        if names != set(inputs):
            raise UnsupportedError(f"{name}: takes {sorted(names)}, is given {sorted(inputs)}")
        scope = {**self.scope, **{f"inputs.parameters.{k}": v for k, v in inputs.items()}}
        if "dag" in template:
            node = self._dag(template, name, scope)
        else:
            node = self._with_retries(resolve(template, scope), name)
        self.nodes.append(node)
        return node

    def _dag(self, template: dict[str, Any], name: str, scope: Mapping[str, str]) -> Node:
        tasks = {task["name"]: task for task in template["dag"]["tasks"]}
        needs = {key: dependencies(task.get("depends", "")) for key, task in tasks.items()}
        results: dict[str, list[Node]] = {}
        started = time.monotonic()
        with ThreadPoolExecutor(max_workers=max(len(tasks), 1)) as pool:
            futures: dict[str, Any] = {}
            while len(results) < len(tasks):
                for key, task in tasks.items():
                    if key not in futures and needs[key] <= set(results):
                        futures[key] = pool.submit(self._task, task, scope, dict(results))
                ready = [key for key in futures if key not in results and futures[key].done()]
                for key in ready:
                    results[key] = futures[key].result()
                if not ready:
                    time.sleep(0.01)
        # A DAG is as its last tasks are; one that was left out is as those before it.
        phases = {key: _phase_of(key, results, needs) for key in tasks}
        last = [key for key in tasks if not any(key in before for before in needs.values())]
        bad = [phases[key] for key in last if phases[key] in ("Failed", "Error")]
        return Node(
            name,
            template["name"],
            bad[0] if bad else "Succeeded",
            started=started,
            finished=time.monotonic(),
        )

    def _task(
        self, task: dict[str, Any], scope: Mapping[str, str], before: dict[str, list[Node]]
    ) -> list[Node]:
        _refuse_unknown(task, _TASK, task["name"])
        key = task["name"]
        if not depends_holds(task.get("depends", ""), before):
            node = Node(key, task["template"], "Omitted")
            self.nodes.append(node)
            return [node]
        # Whether it is one step or many is known first; each of the many has an item.
        loop = {name: task.pop(name) for name in ("withParam", "withSequence") if name in task}
        items = _items(resolve(loop, scope))
        if items is None:
            return [self._step(key, task, scope)]
        with ThreadPoolExecutor(max_workers=max(len(items), 1)) as pool:
            return list(
                pool.map(
                    lambda pair: self._step(
                        f"{key}({pair[0]}:{_shown(pair[1])})", task, {**scope, **_item(pair[1])}
                    ),
                    enumerate(items),
                )
            )

    def _step(self, name: str, task: dict[str, Any], scope: Mapping[str, str]) -> Node:
        given = resolve(task.get("arguments", {}), scope).get("parameters", [])
        inputs = {each["name"]: each["value"] for each in given}
        return self.execute(task["template"], name, inputs)

    def _with_retries(self, template: dict[str, Any], name: str) -> Node:
        retry = template.get("retryStrategy")
        if retry is None:
            return self._pod(template, name)
        _refuse_unknown(retry, _RETRY, name)
        if retry["retryPolicy"] != "Always":
            raise UnsupportedError(f"{name}: retryPolicy {retry['retryPolicy']}")
        backoff = retry.get("backoff", {"duration": "0s"})
        pause, factor = _seconds(backoff["duration"]), float(backoff.get("factor", 1))
        last = None
        for number in range(int(retry["limit"]) + 1):
            if last is not None:
                time.sleep(pause * self.runner.seconds_per_second)
                pause *= factor
            last = self._pod(template, f"{name}({number})")
            self.nodes.append(last)
            known = {"exitCode": str(last.exit_code), "status": last.phase, "message": last.message}
            if last.phase == "Succeeded" or not evaluate(
                retry.get("expression", "true"), {"lastRetry": known}
            ):
                break
        assert last is not None
        return Node(
            name,
            template["name"],
            last.phase,
            last.exit_code,
            last.message,
            last.output,
            last.started,
            last.finished,
        )

    def _pod(self, template: dict[str, Any], name: str) -> Node:
        with self._pods:
            return self._process(template, name)

    def _process(self, template: dict[str, Any], name: str) -> Node:
        """Run a container as a process with folders of its own."""
        container = template["container"]
        _refuse_unknown(container, _CONTAINER, name)
        json.loads(template.get("podSpecPatch", "{}"))
        folders = {}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in self.volumes:
                raise UnsupportedError(f"{name}: there is no volume {mount['name']!r}")
            # Short, as they are in a container: sockets stand in them.
            folder = tempfile.mkdtemp(prefix=f"{mount['name']}-", dir=self.runner.folder)
            folders[mount["mountPath"]] = Path(folder)
        variables = self._environment(container, template.get("metadata", {}))
        words = [
            expand(word, variables) for word in [*container["command"], *container.get("args", [])]
        ]
        if words[0] != "python":
            raise UnsupportedError(f"{name}: runs {words[0]}, and only python is here")
        environment = {
            # Of the machine: where programs are, and what an image brings along.
            "PATH": os.environ["PATH"],
            "MPLCONFIGDIR": matplotlib.get_cachedir(),
            "PYTHONPATH": str(ROOT),
            "HOME": str(folders["/work"]),
            "TMPDIR": str(folders["/tmp"]),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **variables,
        }
        started = time.monotonic()
        process = subprocess.Popen(
            [*self.runner.python, *words[1:]],
            cwd=folders[container["workingDir"]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        with _ended_after(process, _SECONDS_OF_A_STEP):
            self.runner.on_start(name, process)
            output, _ = process.communicate()
        code = process.returncode
        if code < 0:
            # Its disk goes with a pod. Of one that came to its own end a test sees what it left.
            for disk in folders.values():
                shutil.rmtree(disk)
            code = 128 - code
        return Node(
            name,
            template["name"],
            "Succeeded" if code == 0 else "Failed",
            code,
            "" if code == 0 else f"Error (exit code {code})",
            output,
            started,
            time.monotonic(),
        )

    def _environment(
        self, container: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> dict[str, str]:
        """Make the variables of a container, as the kubelet does."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            ((kind, reference),) = source.items()
            found |= self.runner.config[f"{kind} {reference['name']}"]
        for variable in container.get("env", []):
            if "value" in variable:
                found[variable["name"]] = expand(variable["value"], found)
                continue
            if variable["valueFrom"] == {"resourceFieldRef": {"resource": "requests.cpu"}}:
                asked = processors(container["resources"]["requests"]["cpu"])
                found[variable["name"]] = str(min(asked, self.runner.cpus))
                continue
            path = variable["valueFrom"]["fieldRef"]["fieldPath"]
            annotation = re.fullmatch(r"metadata\.annotations\['([^']+)'\]", path)
            if annotation is None:
                raise UnsupportedError(f"fieldPath {path}")
            found[variable["name"]] = metadata["annotations"][annotation[1]]
        return found


# ---- Argo's parameters -----------------------------------------------------------------------


def _workflow_parameters(spec: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    declared = {each["name"]: each for each in spec.get("arguments", {}).get("parameters", [])}
    for name in given:
        if name not in declared:
            raise UnsupportedError(f"there is no parameter {name!r}")
    scope = {}
    for name, parameter in declared.items():
        value = given.get(name, parameter.get("value"))
        if value is None:
            raise UnsupportedError(f"parameter {name!r} is required")
        if "enum" in parameter and value not in parameter["enum"]:
            raise UnsupportedError(f"parameter {name!r}: {value!r} is not in {parameter['enum']}")
        scope[f"workflow.parameters.{name}"] = value
    return scope


def resolve(node: Any, scope: Mapping[str, str]) -> Any:
    """Replace ``{{...}}`` in a part of a manifest: in its JSON, each value escaped for it.

    Raises:
        UnsupportedError: Nothing has such a name.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1].strip()
        if name not in scope:
            raise UnsupportedError(f"failed to resolve {{{{{name}}}}}")
        return json.dumps(scope[name], ensure_ascii=False)[1:-1]

    return json.loads(TAG.sub(value, json.dumps(node, ensure_ascii=False)))


def with_defaults(template: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a template over the defaults, by Kubernetes' strategic merge."""
    merged: dict[str, Any] = _merge(copy.deepcopy(dict(defaults)), template)
    # What the template is stays what it is.
    for kind in ("container", "dag"):
        if kind not in template:
            merged.pop(kind, None)
    return merged


def _merge(below: Any, above: Any, key: str = "") -> Any:
    if isinstance(below, dict) and isinstance(above, Mapping):
        return {
            name: _merge(below[name], above[name], name)
            if name in below and name in above
            else copy.deepcopy(above.get(name, below.get(name)))
            for name in [*below, *(name for name in above if name not in below)]
        }
    if key in ("env", "volumeMounts"):
        by = {"env": "name", "volumeMounts": "mountPath"}[key]
        listed = {each[by]: each for each in below}
        listed |= {each[by]: _merge(listed.get(each[by], {}), each) for each in above}
        return list(listed.values())
    return copy.deepcopy(above)


def _items(loop: Mapping[str, Any]) -> list[Any] | None:
    if "withParam" in loop:
        items = json.loads(loop["withParam"])
        if not isinstance(items, list):
            raise UnsupportedError("withParam: no list in JSON")
        return items
    if "withSequence" in loop:
        _refuse_unknown(loop["withSequence"], {"count"}, "withSequence")
        return [str(number) for number in range(int(loop["withSequence"]["count"]))]
    return None


def _item(item: Any) -> dict[str, str]:
    if isinstance(item, Mapping):
        return {f"item.{key}": value for key, value in item.items()}
    return {"item": item}


def _shown(item: Any) -> str:
    return (
        ",".join(f"{key}:{item[key]}" for key in sorted(item)) if isinstance(item, dict) else item
    )


def _failures(failed: list[Node], workflow: str) -> str:
    """Write what ``{{workflow.failures}}`` is: JSON, and that as a text in JSON once more."""
    told = [
        {
            "displayName": node.name,
            "message": node.message,
            "templateName": node.template,
            "phase": node.phase,
            "podName": f"{workflow}-{node.template}",
            "finishedAt": f"{node.finished:015.3f}",
        }
        for node in failed
    ]
    return json.dumps(json.dumps(told or None))


# ---- Argo's expressions ----------------------------------------------------------------------

_STATES = {
    "Succeeded": lambda phases: all(phase == "Succeeded" for phase in phases),
    "Failed": lambda phases: any(phase == "Failed" for phase in phases),
    "Errored": lambda phases: any(phase == "Error" for phase in phases),
    "Omitted": lambda phases: all(phase == "Omitted" for phase in phases),
    "AnySucceeded": lambda phases: any(phase == "Succeeded" for phase in phases),
    "AllFailed": lambda phases: all(phase in ("Failed", "Error") for phase in phases),
}
_NAMES = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(?:\.[A-Za-z]+)?")


def dependencies(depends: str) -> set[str]:
    """Name the tasks that a ``depends`` waits for."""
    return {name.split(".")[0] for name in _NAMES.findall(depends)}


def depends_holds(depends: str, results: Mapping[str, list[Node]]) -> bool:
    """Say whether a task may start, when those before it have ended."""
    if not depends:
        return True

    def state(found: re.Match[str]) -> str:
        name, _, wanted = found[0].partition(".")
        if (wanted or "Succeeded") not in _STATES:
            raise UnsupportedError(f"depends: {found[0]}")
        return str(_STATES[wanted or "Succeeded"]([node.phase for node in results[name]]))

    return bool(evaluate(_NAMES.sub(state, depends), {"True": True, "False": False}))


def _phase_of(key: str, results: Mapping[str, list[Node]], needs: Mapping[str, set[str]]) -> str:
    """Say how a task went; one that was left out is as the tasks it waited for."""
    phases = [node.phase for node in results[key]]
    if phases == ["Omitted"]:
        phases = [_phase_of(before, results, needs) for before in needs[key]]
    return next((phase for phase in phases if phase in ("Failed", "Error")), "Succeeded")


def evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    """Compute an expression of Argo's, as far as the manifests need it.

    Raises:
        UnsupportedError: It holds something else.
    """
    text = expression.replace("||", " or ").replace("&&", " and ")
    tree = ast.parse(re.sub(r"!(?!=)", " not ", text).strip(), mode="eval").body
    return _value(tree, {"true": True, "false": False, **names})


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Attribute(value=inside, attr=name):
            return _value(inside, names)[name]
        case ast.BoolOp(op=ast.And()):
            return all(_value(each, names) for each in node.values)
        case ast.BoolOp(op=ast.Or()):
            return any(_value(each, names) for each in node.values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, names)
        case ast.Call(func=ast.Name(id="asInt"), args=[argument], keywords=[]):
            return int(_value(argument, names))
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            a, b = _value(left, names), _value(right, names)
            if isinstance(operator, ast.Eq):
                return a == b
            if isinstance(operator, ast.NotEq):
                return a != b
            if isinstance(operator, ast.Gt):
                return a > b
    raise UnsupportedError(f"expression: {ast.unparse(node)}")


# ---- Kubernetes ------------------------------------------------------------------------------


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Expand ``$(NAME)`` as Kubernetes does in commands and variables; ``$$`` is one dollar."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, text)


def processors(quantity: str) -> int:
    """Read a quantity of processors, such as ``500m``; a part of one counts as one."""
    milli = quantity.endswith("m")
    return math.ceil(float(quantity.removesuffix("m")) / (1_000 if milli else 1))


def _seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([smh]?)", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"": 1, "s": 1, "m": 60, "h": 3600}[unit]


def _refuse_unknown(node: Mapping[str, Any], known: set[str], where: str) -> None:
    if set(node) - known:
        raise UnsupportedError(f"{where}: {', '.join(sorted(set(node) - known))}")


@contextlib.contextmanager
def _ended_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Kill a process that takes too long, or that is left behind."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
