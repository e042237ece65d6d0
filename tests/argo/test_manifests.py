"""Every manifest is what Argo, Kubernetes and the project take; and a wrong one would be found."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from entrypoints._composition import composition_problems
from entrypoints._pipeline import split_overrides
from tests.argo.conftest import ARGO
from tests.argo.manifests import SETTINGS, manifest_problems, read, serving_problems
from tests.argo.runner import load

FILES = sorted(ARGO.glob("*.yaml"))
PIPELINE = ARGO / "train-classifier-pipeline.yaml"

Break = Callable[[Any], None]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_manifest_has_nothing_wrong(path: Path) -> None:
    documents = read(path)
    assert [problem for document in documents for problem in manifest_problems(document)] == []


def test_what_serves_fits_together() -> None:
    assert serving_problems(read(ARGO / "serve.yaml")) == []


def _template(spec: Any, name: str) -> Any:
    return next(template for template in spec["templates"] if template["name"] == name)


def _task(spec: Any, name: str) -> Any:
    tasks = _template(spec, "pipeline")["dag"]["tasks"]
    return next(task for task in tasks if task["name"] == name)


def _container(spec: Any, name: str) -> Any:
    return _template(spec, name)["container"]


BROKEN: dict[str, tuple[Break, str]] = {
    "an unknown field": (
        lambda spec: spec.update(entryPoint="x"),
        "spec.entryPoint: Extra inputs are not permitted",
    ),
    "an unknown field inside": (
        lambda spec: _container(spec, "train").update(ressources={}),
        "ressources: Extra inputs are not permitted",
    ),
    "a wrong type": (
        lambda spec: spec.update(activeDeadlineSeconds="soon"),
        "spec.activeDeadlineSeconds: Input should be a valid integer",
    ),
    "no entrypoint": (lambda spec: spec.pop("entrypoint"), "entrypoint: is required"),
    "another entrypoint": (
        lambda spec: spec.update(entrypoint="pipe"),
        "entrypoint: there is no template 'pipe'",
    ),
    "another exit handler": (
        lambda spec: spec.update(onExit="bye"),
        "onExit: there is no template 'bye'",
    ),
    "a template twice": (
        lambda spec: spec["templates"].append(copy.deepcopy(_template(spec, "train"))),
        "template 'train' stands 2 times",
    ),
    "a template for nothing": (
        lambda spec: spec["templates"].append({**_template(spec, "onboard"), "name": "spare"}),
        "spare: nothing runs this template",
    ),
    "a task's template": (
        lambda spec: _task(spec, "train").update(template="trian"),
        "pipeline.train: there is no template 'trian'",
    ),
    "a task twice": (
        lambda spec: _task(spec, "train").update(name="onboard"),
        "pipeline: task 'onboard' stands 2 times",
    ),
    "depends on nobody": (
        lambda spec: _task(spec, "train").update(depends="preproces"),
        "pipeline.train: depends on 'preproces', which is no task",
    ),
    "depends on no state": (
        lambda spec: _task(spec, "train").update(depends="preprocess.Done"),
        "depends: 'Done' is no state of a task",
    ),
    "depends on any of one": (
        lambda spec: _task(spec, "train").update(depends="preprocess.AnySucceeded"),
        "asks of one task what is true of many",
    ),
    "a circle": (
        lambda spec: _task(spec, "check").update(depends="promote"),
        "pipeline: tasks wait for one another",
    ),
    "an unknown parameter": (
        lambda spec: _container(spec, "train").update(image="{{workflow.parameters.image}}"),
        "train: nothing defines {{workflow.parameters.image}}",
    ),
    "a parameter of another template": (
        lambda spec: _container(spec, "onboard")["args"].append(
            "data.path={{inputs.parameters.model-path}}"
        ),
        "onboard: nothing defines {{inputs.parameters.model-path}}",
    ),
    "the status before the end": (
        lambda spec: _container(spec, "onboard")["args"].append("data.name={{workflow.status}}"),
        "onboard: nothing defines {{workflow.status}}",
    ),
    "an item of no loop": (
        lambda spec: _task(spec, "train")["arguments"]["parameters"][0].update(value="{{item}}"),
        "pipeline.train: nothing defines {{item}}",
    ),
    "a tag with blanks": (
        lambda spec: _container(spec, "train").update(image="{{ workflow.nam }}"),
        "train: nothing defines {{ workflow.nam }}",
    ),
    "a parameter for nothing": (
        lambda spec: spec["arguments"]["parameters"].append({"name": "spare", "value": "1"}),
        "parameter 'spare' is used nowhere",
    ),
    "a parameter twice": (
        lambda spec: spec["arguments"]["parameters"].append({"name": "alias", "value": "1"}),
        "parameter 'alias' stands 2 times",
    ),
    "a default outside of its enum": (
        lambda spec: spec["arguments"]["parameters"][3].update(value="acuracy"),
        "parameter 'gate-metric': 'acuracy' is not in its enum",
    ),
    "an input that is not given": (
        lambda spec: _task(spec, "train").pop("arguments"),
        "pipeline.train: 'model-path' is not given to train",
    ),
    "an argument that is not taken": (
        lambda spec: _task(spec, "onboard").update(
            arguments={"parameters": [{"name": "x", "value": "1"}]}
        ),
        "pipeline.onboard: onboard takes no 'x'",
    ),
    "an input for nothing": (
        lambda spec: _template(spec, "onboard").update(
            inputs={"parameters": [{"name": "model-path"}]}
        ),
        "onboard: input 'model-path' is used nowhere",
    ),
    "another module": (
        lambda spec: _container(spec, "train")["command"].__setitem__(2, "entrypoints.trian"),
        "train: ['python', '-m', 'entrypoints.trian'] is no command of this project",
    ),
    "a shell": (
        lambda spec: _container(spec, "train").update(command=["sh", "-c", "python -m x"]),
        "is no command of this project",
    ),
    "no command": (
        lambda spec: _container(spec, "train").pop("command"),
        "train: None is no command of this project",
    ),
    "an unknown setting": (
        lambda spec: _container(spec, "train")["args"].append("modelpath=x"),
        "train: modelpath: unknown key. Did you mean 'model_path'?",
    ),
    "a setting of another stage": (
        lambda spec: _container(spec, "evaluate")["args"].append("seed=3"),
        "evaluate: seed: unknown key.",
    ),
    "a setting that is there already": (
        lambda spec: _container(spec, "train")["args"].__setitem__(
            2, "tracking.tags.workflow={{workflow.name}}"
        ),
        "train: tracking.tags.workflow: unknown key.",
    ),
    "overrides in a command": (
        lambda spec: _container(spec, "train")["args"].append("{{workflow.parameters.overrides}}"),
        "{{workflow.parameters.overrides}} is free text: pass it by an annotation and a variable",
    ),
    "overrides in a plain variable": (
        lambda spec: spec["templateDefaults"]["container"]["env"].append(
            {"name": "STAGE_OVERRIDES", "value": "{{workflow.parameters.overrides}}"}
        ),
        "{{workflow.parameters.overrides}} is free text",
    ),
    "an annotation that is not there": (
        lambda spec: spec["templateDefaults"]["metadata"].update(annotations={}),
        "train: there is no metadata.annotations['ml-project-template/overrides']",
    ),
    "a variable that nothing reads": (
        lambda spec: spec["templateDefaults"]["container"]["env"].append(
            {"name": "PIPELINE_OVERIDES", "value": "x"}
        ),
        "train: nothing reads the variable PIPELINE_OVERIDES",
    ),
    "a variable twice": (
        lambda spec: _container(spec, "train").update(
            env=[{"name": "A_B", "value": "1"}, {"name": "A_B", "value": "2"}]
        ),
        "train: variable 'A_B' stands 2 times",
    ),
    "a variable that nothing sets": (
        lambda spec: _container(spec, "train")["args"].append("run_name=${oc.env:MY_NAME}"),
        "train: nothing sets MY_NAME",
    ),
    "a volume that is not there": (
        lambda spec: spec["volumes"].pop(),
        "train: there is no volume 'tmp'",
    ),
    "a retry without end": (
        lambda spec: _template(spec, "train").update(retryStrategy={"retryPolicy": "Always"}),
        "train: retryStrategy needs a limit and a back-off",
    ),
    "a retry of what is wrong": (
        lambda spec: _template(spec, "train")["retryStrategy"].pop("expression"),
        "train: retry after Failed with exit code 1",
    ),
    "no retry of what was killed": (
        lambda spec: _template(spec, "train")["retryStrategy"].update(
            expression="lastRetry.status == 'Error'"
        ),
        "train: no retry after Failed with exit code 137",
    ),
    "an expression that is none": (
        lambda spec: _template(spec, "train")["retryStrategy"].update(
            expression="asInt(lastRetry.exit) > 128"
        ),
        "train: retryStrategy.expression: 'exit'",
    ),
    "root": (
        lambda spec: spec["securityContext"].update(runAsNonRoot=False),
        "train: securityContext: pod.runAsNonRoot must be True, is False",
    ),
    "a token of the cluster": (
        lambda spec: spec.update(automountServiceAccountToken=True),
        "automountServiceAccountToken: must be false",
    ),
    "capabilities": (
        lambda spec: spec["templateDefaults"]["container"]["securityContext"].pop("capabilities"),
        "train: securityContext: capabilities.drop must be ['ALL'], is None",
    ),
    "no limit": (
        lambda spec: _container(spec, "train")["resources"].pop("limits"),
        "train: resources: limits of memory is missing",
    ),
    "an image without a version": (
        lambda spec: _container(spec, "train").update(image="training-job:latest"),
        "train: image 'training-job:latest' has no version",
    ),
    "no end": (
        lambda spec: spec.pop("activeDeadlineSeconds"),
        "activeDeadlineSeconds: is required",
    ),
    "nothing cleaned up": (lambda spec: spec.pop("ttlStrategy"), "ttlStrategy: is required"),
}


@pytest.mark.parametrize(("breaks", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_workflow_is_found(breaks: Break, message: str) -> None:
    # A copy without the file's anchors: what is changed is changed in one place.
    (document,) = yaml.safe_load_all(PIPELINE.read_text("utf-8"))
    document = yaml.safe_load(yaml.dump(document, Dumper=_NoAliases))
    breaks(document["spec"])
    problems = manifest_problems(document)
    assert any(message in problem for problem in problems), problems


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


SERVING_BROKEN: dict[str, tuple[Break, str]] = {
    "a selector": (
        lambda kinds: kinds["Service"]["spec"]["selector"].update(tier="x"),
        "Service: its selector finds no pod",
    ),
    "a budget for nobody": (
        lambda kinds: kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].update(
            {"app.kubernetes.io/name": "x"}
        ),
        "PodDisruptionBudget: its selector finds no pod",
    ),
    "a port": (
        lambda kinds: kinds["Service"]["spec"]["ports"][0].update(targetPort="web"),
        "Service: there is no port 'web'",
    ),
    "an autoscaler of nothing": (
        lambda kinds: kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"].update(name="x"),
        "HorizontalPodAutoscaler: there is no such Deployment",
    ),
    "replicas of two": (
        lambda kinds: kinds["Deployment"]["spec"].update(replicas=2),
        "Deployment: replicas are the autoscaler's",
    ),
    "a probe": (
        lambda kinds: _pod(kinds)["containers"][0]["livenessProbe"]["httpGet"].update(path="/ping"),
        "livenessProbe: must ask for /health at a port of the container",
    ),
    "no time to drain": (
        lambda kinds: _pod(kinds).update(terminationGracePeriodSeconds=30),
        "terminationGracePeriodSeconds: must be 30 s longer than server.drain_seconds",
    ),
    "a drain that nobody notices": (
        lambda kinds: _pod(kinds)["containers"][0]["args"].__setitem__(3, "server.drain_seconds=3"),
        "server.drain_seconds=3 ends before 10 s, when it is noticed",
    ),
    "a setting": (
        lambda kinds: _pod(kinds)["containers"][0]["args"].append("server.tokn=x"),
        "server: server.tokn: unknown key. Did you mean 'token'?",
    ),
    "a port of its own": (
        lambda kinds: _pod(kinds)["containers"][0]["args"].__setitem__(2, "server.port=8001"),
        "server.port=8001 is not among the ports",
    ),
    "local requests alone": (
        lambda kinds: _pod(kinds)["containers"][0]["args"].__setitem__(1, "server.host=127.0.0.1"),
        "server.host: nobody outside the pod reaches it",
    ),
    "a root file system": (
        lambda kinds: _pod(kinds)["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
        "server: securityContext: readOnlyRootFilesystem must be True, is None",
    ),
}


def _pod(kinds: Any) -> Any:
    return kinds["Deployment"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(("breaks", "message"), SERVING_BROKEN.values(), ids=SERVING_BROKEN)
def test_broken_serving_is_found(breaks: Break, message: str) -> None:
    text = (ARGO / "serve.yaml").read_text("utf-8")
    kinds = {document["kind"]: document for document in yaml.safe_load_all(text)}
    breaks(kinds)
    problems = serving_problems(list(kinds.values()))
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("Deployment", {"spec.minReadySecs": 1}, "('minReadySecs' was unexpected)"),
        ("Service", {"spec.ports": [{"name": "x"}]}, "'port' is a required property"),
        ("HorizontalPodAutoscaler", {"spec.maxReplicas": "ten"}, "is not of type 'integer'"),
        ("PodDisruptionBudget", {"spec.max": 1}, "('max' was unexpected)"),
        ("NetworkPolicy", {"spec.ingres": []}, "('ingres' was unexpected)"),
        ("Service", {"apiVersion": "v2"}, "unknown kind v2/Service"),
    ],
)
def test_a_field_that_kubernetes_does_not_know_is_found(
    kind: str, change: dict[str, Any], message: str
) -> None:
    (document,) = [each for each in read(ARGO / "serve.yaml") if each["kind"] == kind]
    for path, value in change.items():
        *parents, last = path.split(".")
        node = document
        for parent in parents:
            node = node[parent]
        node[last] = value
    problems = manifest_problems(document)
    assert any(message in problem for problem in problems), problems


def test_a_key_that_stands_twice_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1\nb: {c: 1, c: 2}\n")
    with pytest.raises(yaml.YAMLError, match="c stands twice"):
        read(tmp_path / "x.yaml")


def test_the_readme_names_what_there_is() -> None:
    text = (ARGO / "README.md").read_text("utf-8")
    for path in FILES:
        assert f"argo/{path.name}" in text
        for document in read(path):
            for each in document.get("spec", {}).get("arguments", {}).get("parameters", []):
                assert f"`{each['name']}`" in text, each["name"]
    assert all(name in text for name in SETTINGS)


def _submissions(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Find the workflows that the README submits, with their parameters."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        if words[:2] == ["argo", "submit"]:
            given = [words[place + 1] for place, word in enumerate(words) if word == "-p"]
            yield (
                words[3].removeprefix("workflowtemplate/"),
                dict(word.split("=", 1) for word in given),
            )


def test_what_the_readme_submits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ARGO / "README.md").read_text("utf-8")
    submissions = list(_submissions(text))
    file = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    submissions.append(("train-classifier-pipeline", file))
    assert len(submissions) >= 5
    for name, parameters in submissions:
        spec = load(ARGO / f"{name}.yaml")["spec"]
        assert set(parameters) <= {each["name"] for each in spec["arguments"]["parameters"]}
        if "overrides" in parameters:
            monkeypatch.setenv("PIPELINE_OVERRIDES", parameters["overrides"])
            words = split_overrides("PIPELINE_OVERRIDES")
            assert composition_problems("train", words)[0] == []
    # The two ways to write the same.
    quoted = [parameters.get("overrides") for _, parameters in submissions]
    assert quoted.count(file["overrides"]) == 2
