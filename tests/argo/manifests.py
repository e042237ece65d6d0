"""What can be wrong with a manifest, and no cluster would say before it is too late."""

from __future__ import annotations

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import pydantic
import yaml

from entrypoints._composition import composition_problems
from tests.argo.runner import ROOT, TAG, UnsupportedError, dependencies, evaluate, with_defaults

SCHEMA = Path(__file__).with_name("kubernetes.schema.json")

# What Argo knows of itself; the last two in an exit handler alone.
_GLOBAL = {"workflow.name"}
_AT_EXIT = {"workflow.status", "workflow.failures"}
_STATES = {"Succeeded", "Failed", "Errored", "Skipped", "Omitted", "Daemoned"}
_OF_MANY = {"AnySucceeded", "AllFailed"}
# What the settings and the secrets of a namespace hold; argo/README.md names them.
SETTINGS = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_URI",
        "S3_DATA_BUCKET",
        "S3_ENDPOINT_URL",
        "S3_MODEL_BUCKET",
        "SERVER_TOKEN",
        "SWEEP_STORAGE",
    }
)
# Text that anybody may have written: it must not stand where something reads it.
_FREE_TEXT = re.compile(r"workflow\.parameters\.(overrides|files)|workflow\.failures|item\.")


def read(path: Path) -> list[dict[str, Any]]:
    """Read the documents of a file; a key that stands twice is refused."""
    return list(yaml.load_all(path.read_text("utf-8"), Loader=_UniqueKeys))


def manifest_problems(document: Mapping[str, Any]) -> list[str]:
    """Find all that is wrong with a document."""
    if document.get("kind") == "WorkflowTemplate":
        shape = _argo_problems(document)
        return shape or list(_workflow_problems(document))
    return _kubernetes_problems(document)


def serving_problems(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Find what of a Deployment and all around it does not fit together."""
    return list(_serving_problems({document["kind"]: document for document in documents}))


# ---- shapes ----------------------------------------------------------------------------------


class _UniqueKeys(yaml.SafeLoader):
    """A loader that does not let the second of two equal keys win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(key.value for key, _ in node.value)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} stands twice")
        return super().construct_mapping(node, deep)


@functools.cache
def _argo_model() -> type[pydantic.BaseModel]:
    """Load Hera's model of a WorkflowTemplate, and have it refuse what it does not know."""
    from hera.shared import _pydantic

    _pydantic.APIBaseModel.model_config["extra"] = "forbid"
    from hera.workflows.models import WorkflowTemplate

    return WorkflowTemplate


def _argo_problems(document: Mapping[str, Any]) -> list[str]:
    try:
        _argo_model().model_validate(document)
    except pydantic.ValidationError as error:
        return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return []


@functools.cache
def _kubernetes_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(SCHEMA.read_text("utf-8"))
    return schema


def _kubernetes_problems(document: Mapping[str, Any]) -> list[str]:
    schema = _kubernetes_schema()
    name = schema["kinds"].get(f"{document.get('apiVersion')}/{document.get('kind')}")
    if name is None:
        return [f"unknown kind {document.get('apiVersion')}/{document.get('kind')}"]
    validator = jsonschema.Draft7Validator(
        {"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]},
    )
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


# ---- workflows -------------------------------------------------------------------------------


def _workflow_problems(document: Mapping[str, Any]) -> Iterator[str]:
    spec = document["spec"]
    templates = {template["name"]: template for template in spec["templates"]}
    yield from _twice("template", [template["name"] for template in spec["templates"]])
    parameters = [each["name"] for each in spec.get("arguments", {}).get("parameters", [])]
    yield from _twice("parameter", parameters)
    for key in ("entrypoint", "onExit"):
        if key in spec and spec[key] not in templates:
            yield f"{key}: there is no template '{spec[key]}'"
    if "entrypoint" not in spec:
        yield "entrypoint: is required"
    used = {spec.get("entrypoint"), spec.get("onExit")}
    for template in templates.values():
        used |= {task.get("template") for task in template.get("dag", {}).get("tasks", [])}
    for name in templates:
        if name not in used:
            yield f"{name}: nothing runs this template"
    yield from _parameter_problems(spec, parameters)
    at_exit = {spec.get("onExit")}
    for template in [*templates.values(), {"name": "", **spec.get("templateDefaults", {})}]:
        variables = [each["name"] for each in template.get("container", {}).get("env", [])]
        yield from _twice(f"{template['name'] or 'templateDefaults'}: variable", variables)
    for template in templates.values():
        merged = with_defaults(template, spec.get("templateDefaults", {}))
        yield from _tag_problems(merged, parameters, at_exit=template["name"] in at_exit)
        if "dag" in merged:
            yield from _dag_problems(merged, templates)
        elif "container" in merged:
            yield from _container_problems(merged, spec)
        else:
            yield f"{template['name']}: runs nothing"
    yield from _housekeeping_problems(spec)


def _twice(what: str, names: Sequence[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{what} '{name}' stands {count} times"


def _parameter_problems(spec: Mapping[str, Any], parameters: Sequence[str]) -> Iterator[str]:
    text = json.dumps(spec)
    for name in parameters:
        if f"{{{{workflow.parameters.{name}}}}}" not in text:
            yield f"parameter '{name}' is used nowhere"
    for each in spec.get("arguments", {}).get("parameters", []):
        if "enum" in each and each.get("value") not in each["enum"]:
            yield f"parameter '{each['name']}': {each.get('value')!r} is not in its enum"


def _tag_problems(
    template: Mapping[str, Any], parameters: Sequence[str], *, at_exit: bool
) -> Iterator[str]:
    name = template["name"]
    inputs = [each["name"] for each in template.get("inputs", {}).get("parameters", [])]
    yield from _twice(f"{name}: input", inputs)
    known = _GLOBAL | {f"workflow.parameters.{each}" for each in parameters}
    known |= {f"inputs.parameters.{each}" for each in inputs} | (_AT_EXIT if at_exit else set())
    text = json.dumps({key: value for key, value in template.items() if key != "dag"})
    for tag in sorted(set(TAG.findall(text))):
        if tag not in known:
            yield f"{name}: nothing defines {{{{{tag}}}}}"
    for each in inputs:
        if f"{{{{inputs.parameters.{each}}}}}" not in json.dumps(template):
            yield f"{name}: input '{each}' is used nowhere"
    for task in template.get("dag", {}).get("tasks", []):
        loop = {"withParam", "withSequence"} & set(task)
        for tag in sorted(set(TAG.findall(json.dumps(task)))):
            if not (tag in known or (loop and re.fullmatch(r"item(\.\w+)?", tag))):
                yield f"{name}.{task['name']}: nothing defines {{{{{tag}}}}}"


def _dag_problems(
    template: Mapping[str, Any], templates: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    tasks = template["dag"]["tasks"]
    names = [task["name"] for task in tasks]
    yield from _twice(f"{template['name']}: task", names)
    many = {task["name"] for task in tasks if {"withParam", "withSequence"} & set(task)}
    needs: dict[str, set[str]] = {}
    for task in tasks:
        where = f"{template['name']}.{task['name']}"
        depends = task.get("depends", "")
        needs[task["name"]] = dependencies(depends)
        for each in re.findall(r"[\w-]+(?:\.\w+)?", depends):
            before, _, state = each.partition(".")
            if before not in names:
                yield f"{where}: depends on '{before}', which is no task"
            elif state in _OF_MANY and before not in many:
                yield f"{where}: {each} asks of one task what is true of many"
            elif state and state not in _STATES | _OF_MANY:
                yield f"{where}: depends: '{state}' is no state of a task"
        target = templates.get(task.get("template", ""))
        if target is None:
            yield f"{where}: there is no template '{task.get('template')}'"
            continue
        wanted = {each["name"] for each in target.get("inputs", {}).get("parameters", [])}
        given = [each["name"] for each in task.get("arguments", {}).get("parameters", [])]
        yield from _twice(f"{where}: argument", given)
        for each in sorted(wanted - set(given)):
            yield f"{where}: '{each}' is not given to {target['name']}"
        for each in sorted(set(given) - wanted):
            yield f"{where}: {target['name']} takes no '{each}'"
    if _has_circle(needs):
        yield f"{template['name']}: tasks wait for one another"


def _has_circle(needs: Mapping[str, set[str]]) -> bool:
    left = dict(needs)
    while left:
        free = [name for name, before in left.items() if not before & set(left)]
        if not free:
            return True
        for name in free:
            del left[name]
    return False


def _container_problems(template: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    name, container = template["name"], template["container"]
    yield from _command_problems(name, container, template.get("metadata", {}))
    yield from _safety_problems(name, container, spec.get("securityContext", {}))
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            yield f"{name}: there is no volume '{mount['name']}'"
    retry = template.get("retryStrategy")
    if retry is None or "limit" not in retry or "backoff" not in retry:
        yield f"{name}: retryStrategy needs a limit and a back-off"
        return
    for code, status, again in ((1, "Failed", False), (137, "Failed", True), (-1, "Error", True)):
        known = {"lastRetry": {"exitCode": str(code), "status": status}}
        try:
            found = bool(evaluate(retry.get("expression", "true"), known))
        except (UnsupportedError, SyntaxError, KeyError) as error:
            yield f"{name}: retryStrategy.expression: {error}"
            return
        if found != again and name != spec.get("onExit"):
            yield f"{name}: {'no ' if again else ''}retry after {status} with exit code {code}"


def _command_problems(
    name: str, container: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Iterator[str]:
    """See that a command is one of the project's, and that its arguments are read as they are."""
    command, arguments = container.get("command"), container.get("args", [])
    variables = [each["name"] for each in container.get("env", [])]
    written = json.dumps([command, arguments, [e.get("value") for e in container.get("env", [])]])
    for tag in sorted(set(TAG.findall(written))):
        if _FREE_TEXT.match(tag):
            yield f"{name}: {{{{{tag}}}}} is free text: pass it by an annotation and a variable"
    for each in container.get("env", []):
        path = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        if path is not None:
            key = re.fullmatch(r"metadata\.annotations\['([^']+)'\]", path)
            if key is None or key[1] not in metadata.get("annotations", {}):
                yield f"{name}: there is no {path}"
    for each in variables:
        if each not in _variables_of_the_code() | _asked(arguments) | {"OMP_NUM_THREADS"}:
            yield f"{name}: nothing reads the variable {each}"
    module = command[2] if command and command[:2] == ["python", "-m"] and command[2:] else ""
    stage = module.removeprefix("entrypoints.")
    if len(command or []) != 3 or not (ROOT / "entrypoints" / f"{stage}.py").is_file():
        yield f"{name}: {command} is no command of this project"
        return
    for each in _asked(arguments):
        if each not in variables and each not in SETTINGS:
            yield f"{name}: nothing sets {each}"
    values = {"gate-min": "0.5", "gate-max": "null"}
    plain = [
        TAG.sub(lambda found: values.get(found[1].rpartition(".")[2], "minio"), argument)
        for argument in arguments
    ]
    for problem in _argument_problems(stage, tuple(plain)):
        yield f"{name}: {problem}"


@functools.cache
def _argument_problems(stage: str, arguments: tuple[str, ...]) -> list[str]:
    with mock.patch.dict(os.environ, dict.fromkeys(_asked(arguments), "x")):
        return composition_problems(stage, arguments)[0]


def _asked(arguments: Sequence[str]) -> set[str]:
    return set(re.findall(r"\$\{oc\.env:(\w+)\}", " ".join(arguments)))


@functools.cache
def _variables_of_the_code() -> set[str]:
    """Name the variables that the project reads."""
    folders = [ROOT / "entrypoints", ROOT / "conf", ROOT / "src"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts = (path.read_text("utf-8") for path in files if path.suffix in (".py", ".yaml"))
    return {name for text in texts for name in re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", text)}


def _safety_problems(
    name: str, container: Mapping[str, Any], pod: Mapping[str, Any]
) -> Iterator[str]:
    own = container.get("securityContext", {})
    wanted = {
        "pod.runAsNonRoot": (pod.get("runAsNonRoot"), True),
        "pod.seccompProfile": (pod.get("seccompProfile", {}).get("type"), "RuntimeDefault"),
        "allowPrivilegeEscalation": (own.get("allowPrivilegeEscalation"), False),
        "readOnlyRootFilesystem": (own.get("readOnlyRootFilesystem"), True),
        "capabilities.drop": (own.get("capabilities", {}).get("drop"), ["ALL"]),
    }
    for key, (found, right) in wanted.items():
        if found != right:
            yield f"{name}: securityContext: {key} must be {right}, is {found}"
    resources = container.get("resources", {})
    for kind, of in (("requests", ("cpu", "memory")), ("limits", ("memory",))):
        for each in of:
            if each not in resources.get(kind, {}):
                yield f"{name}: resources: {kind} of {each} is missing"
    image = container.get("image", "")
    if not (image.startswith("{{") or re.fullmatch(r".+:(?!latest)[\w.-]+", image)):
        yield f"{name}: image '{image}' has no version"
    if not {"/work", "/tmp"} <= {each["mountPath"] for each in container.get("volumeMounts", [])}:
        yield f"{name}: nothing can be written to /work and /tmp"


def _housekeeping_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    for key in ("activeDeadlineSeconds", "ttlStrategy", "podGC", "serviceAccountName", "executor"):
        if key not in spec:
            yield f"{key}: is required"
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken: must be false"


# ---- serving ---------------------------------------------------------------------------------


def _serving_problems(kinds: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    deployment = kinds["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    (container,) = pod["containers"]
    selectors = {
        "Deployment": deployment["selector"]["matchLabels"],
        "Service": kinds["Service"]["spec"]["selector"],
        "PodDisruptionBudget": kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    }
    for kind, selector in selectors.items():
        if not selector or not selector.items() <= labels.items():
            yield f"{kind}: its selector finds no pod"
    target = kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    if (target["kind"], target["name"]) != ("Deployment", kinds["Deployment"]["metadata"]["name"]):
        yield "HorizontalPodAutoscaler: there is no such Deployment"
    if "replicas" in deployment:
        yield "Deployment: replicas are the autoscaler's"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for port in kinds["Service"]["spec"]["ports"]:
        if port["targetPort"] not in ports:
            yield f"Service: there is no port '{port['targetPort']}'"
    settings = dict(argument.split("=", 1) for argument in container["args"])
    if int(settings["server.port"]) not in ports.values():
        yield f"server.port={settings['server.port']} is not among the ports"
    if settings.get("server.host") != "0.0.0.0":  # noqa: S104
        yield "server.host: nobody outside the pod reaches it"
    paths = {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/health"}
    for probe, path in paths.items():
        found = container.get(probe, {}).get("httpGet", {})
        if found.get("path") != path or found.get("port") not in ports:
            yield f"{probe}: must ask for {path} at a port of the container"
    ready = container.get("readinessProbe", {})
    noticed = ready.get("periodSeconds", 10) * ready.get("failureThreshold", 3)
    drain = float(settings.get("server.drain_seconds", 3))
    if drain < noticed:
        yield f"server.drain_seconds={drain:g} ends before {noticed} s, when it is noticed"
    if pod.get("terminationGracePeriodSeconds", 30) < drain + 30:
        yield "terminationGracePeriodSeconds: must be 30 s longer than server.drain_seconds"
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken: must be false"
    yield from _command_problems("server", container, {})
    yield from _safety_problems("server", container, pod.get("securityContext", {}))
    volumes = {volume["name"] for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes:
            yield f"server: there is no volume '{mount['name']}'"
