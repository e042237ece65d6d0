"""The runner does what Argo and Kubernetes do, and refuses the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.argo.runner import (
    Node,
    Runner,
    UnsupportedError,
    depends_holds,
    evaluate,
    expand,
    processors,
    resolve,
    with_defaults,
)

MOUNTS = [{"name": "work", "mountPath": "/work"}, {"name": "tmp", "mountPath": "/tmp"}]
TRY_TWICE = {
    "limit": "2",
    "retryPolicy": "Always",
    "expression": "asInt(lastRetry.exitCode) > 128",
    "backoff": {"duration": "1h", "factor": "2"},
}


def _step(name: str, code: str, **fields: Any) -> dict[str, Any]:
    container = {"command": ["python", "-c", code], "workingDir": "/work", "volumeMounts": MOUNTS}
    container |= fields.pop("container", {})
    return {"name": name, "container": container, **fields}


def _runner(folder: Path, *steps: dict[str, Any], **spec: Any) -> Runner:
    template = {
        "spec": {
            "entrypoint": steps[0]["name"],
            "volumes": [{"name": "work"}, {"name": "tmp"}],
            "templates": list(steps),
            **spec,
        }
    }
    return Runner(template, folder, {"secretRef keys": {"KEY": "k"}})


def _dag(*tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "main", "dag": {"tasks": list(tasks)}, **fields}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A) $(B)", "1 $(B)"),
        ("$$(A) $$ $A ${A}", "$(A) $ $A ${A}"),
        ("no dollar", "no dollar"),
    ],
)
def test_variables_are_expanded_as_the_kubelet_does(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(("quantity", "number"), [("500m", 1), ("2", 2), ("2500m", 3), ("0.1", 1)])
def test_a_part_of_a_processor_counts_as_one(quantity: str, number: int) -> None:
    assert processors(quantity) == number


@pytest.mark.parametrize("text", ['say "hi"', "back\\slash", "line\nbreak", "{a: b}", "ü", "{{x"])
def test_a_value_is_escaped_for_the_template_that_it_goes_to(text: str) -> None:
    assert resolve({"a": ["x={{inputs.parameters.p}}"]}, {"inputs.parameters.p": text}) == {
        "a": [f"x={text}"]
    }


def test_a_value_that_nobody_gives_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"failed to resolve \{\{a.b\}\}"):
        resolve("{{a.b}}", {})


@pytest.mark.parametrize(
    ("depends", "holds"),
    [
        ("", True),
        ("good", True),
        ("bad", False),
        ("good && bad", False),
        ("good || bad", True),
        ("bad.Failed && !bad.Succeeded", True),
        ("left-out.Omitted", True),
        ("many.AnySucceeded", True),
        ("many", False),
        ("many.AllFailed", False),
    ],
)
def test_a_task_waits_as_its_depends_says(depends: str, holds: bool) -> None:
    phases = {"good": ["Succeeded"], "bad": ["Failed"], "left-out": ["Omitted"]}
    phases["many"] = ["Failed", "Succeeded"]
    results = {key: [Node(key, "t", phase) for phase in found] for key, found in phases.items()}
    assert depends_holds(depends, results) is holds


@pytest.mark.parametrize("expression", ["lastRetry.status in ['Error']", "open('x')", "1 + 1"])
def test_an_expression_that_it_does_not_know_is_refused(expression: str) -> None:
    with pytest.raises(UnsupportedError, match="expression"):
        evaluate(expression, {"lastRetry": {"status": "Error"}})


def test_defaults_lie_below_a_template() -> None:
    defaults = {
        "metadata": {"annotations": {"a": "1"}},
        "container": {"env": [{"name": "A", "value": "1"}], "args": ["x"]},
    }
    own = {
        "metadata": {"annotations": {"b": "2"}},
        "container": {"env": [{"name": "B", "value": "2"}], "args": ["y"]},
    }
    assert with_defaults(own, defaults) == {
        "metadata": {"annotations": {"a": "1", "b": "2"}},
        "container": {
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "args": ["y"],
        },
    }
    assert "container" not in with_defaults({"dag": {}}, defaults)


def test_a_step_has_what_its_manifest_says_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_MACHINE", "x")
    text = 'it\'s "$(KEY)" $$'
    step = _step(
        "main",
        "import json, os; print(json.dumps(dict(os.environ))); print(os.listdir())",
        metadata={"annotations": {"t": "{{workflow.parameters.text}}"}},
        container={
            "envFrom": [{"secretRef": {"name": "keys"}}],
            "resources": {"requests": {"cpu": "3"}},
            "env": [
                {
                    "name": "THREADS",
                    "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}},
                },
                {"name": "PLAIN", "value": "{{workflow.parameters.text}}"},
                {
                    "name": "WHOLE",
                    "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['t']"}},
                },
            ],
        },
    )
    arguments = {"parameters": [{"name": "text"}]}
    runner = _runner(tmp_path, step, arguments=arguments)
    runner.cpus = 2
    printed, folder, _ = runner.run("w", text=text)["w"].output.split("\n")
    variables = json.loads(printed)
    assert variables["WHOLE"] == text
    # What a plain variable makes of it.
    assert variables["PLAIN"] == 'it\'s "k" $'
    assert variables["THREADS"] == "2"
    assert "OF_THE_MACHINE" not in variables
    assert folder == "[]"
    with pytest.raises(UnsupportedError, match="parameter 'text' is required"):
        runner.run("w2")
    with pytest.raises(UnsupportedError, match="there is no parameter 'other'"):
        runner.run("w3", text="", other="")


def test_what_was_killed_is_tried_again_and_what_is_wrong_is_not(tmp_path: Path) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    steps = [_step("killed", kill), _step("wrong", "raise SystemExit(1)")]
    for step in steps:
        step["retryStrategy"] = TRY_TWICE
    tasks = [{"name": step["name"], "template": step["name"]} for step in steps]
    result = _runner(tmp_path, _dag(*tasks), *steps).run("w")
    assert result.phase == "Failed"
    codes = {node.name: node.exit_code for node in result.nodes if node.name != "w"}
    assert codes == {
        **{f"killed({number})": 137 for number in range(3)},
        "killed": 137,
        "wrong(0)": 1,
        "wrong": 1,
    }


def test_a_dag_is_as_its_last_tasks_are_and_its_exit_handler_hears_of_it(tmp_path: Path) -> None:
    bad, good = _step("bad", "raise SystemExit(3)"), _step("good", "print('{{workflow.name}}')")
    told = _step(
        "told",
        "import os; print(os.environ['F'])",
        metadata={"annotations": {"f": "{{workflow.failures}}"}},
        container={
            "args": ["{{workflow.status}}"],
            "env": [
                {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['f']"}}}
            ],
        },
    )
    tasks = [
        {"name": "a", "template": "bad"},
        {"name": "b", "template": "good", "depends": "a.Failed"},
    ]
    runner = _runner(tmp_path, _dag(*tasks), bad, good, told, onExit="told")
    result = runner.run("w1")
    assert (result.phase, result["b"].output) == ("Succeeded", "w1\n")
    tasks[1]["depends"] = "a"
    tasks.append({"name": "c", "template": "good", "depends": "b"})
    result = _runner(tmp_path, _dag(*tasks), bad, good, told, onExit="told").run("w2")
    assert (result.phase, result["b"].phase, result["c"].phase) == ("Failed", "Omitted", "Omitted")
    failures = json.loads(json.loads(result["w2.onExit"].output))
    assert [each["displayName"] for each in failures] == ["a", "w2"]
    assert failures[0]["message"] == "Error (exit code 3)"


def test_a_task_with_many_items_runs_them_side_by_side(tmp_path: Path) -> None:
    step = _step("one", "import sys; print(sys.argv[1])")
    step["inputs"] = {"parameters": [{"name": "x"}]}
    step["container"]["args"] = ["{{inputs.parameters.x}}"]
    given = {"parameters": [{"name": "x", "value": "{{item.x}}"}]}
    task: dict[str, Any] = {
        "name": "t",
        "template": "one",
        "withParam": '[{"x": "a"}, {"x": "b c"}]',
    }
    result = _runner(tmp_path, _dag({**task, "arguments": given}), step).run("w")
    assert [result[name].output for name in ("t(0:x:a)", "t(1:x:b c)")] == ["a\n", "b c\n"]
    given = {"parameters": [{"name": "x", "value": "{{item}}"}]}
    task = {"name": "t", "template": "one", "withSequence": {"count": "2"}}
    result = _runner(tmp_path, _dag({**task, "arguments": given}), step).run("v")
    assert [result[name].output for name in ("t(0:0)", "t(1:1)")] == ["0\n", "1\n"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"script": {}}, "main: script"),
        ({"retryStrategy": {**TRY_TWICE, "affinity": {}}}, "affinity"),
        ({"retryStrategy": {**TRY_TWICE, "retryPolicy": "OnError"}}, "retryPolicy OnError"),
        ({"inputs": {"parameters": [{"name": "x"}]}}, r"takes \['x'\], is given \[\]"),
        ({"container": {"lifecycle": {}}}, "lifecycle"),
        ({"container": {"command": ["sh", "-c", "true"]}}, "only python is here"),
        ({"container": {"volumeMounts": [{"name": "x", "mountPath": "/x"}]}}, "no volume 'x'"),
    ],
    ids=["script", "retry", "policy", "inputs", "container", "program", "volume"],
)
def test_what_it_does_not_know_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        _runner(tmp_path, _step("main", "pass", **change)).run("w")
