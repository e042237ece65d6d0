"""The services of docker-compose.yml."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT

COMPOSE = ROOT / "docker-compose.yml"
PASSWORDS = {
    "AWS_ACCESS_KEY_ID": "an-id",
    "AWS_SECRET_ACCESS_KEY": "a-hidden-word",
    "POSTGRES_PASSWORD": "another-word",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def test_it_is_what_the_specification_of_compose_allows(compose: dict[str, Any]) -> None:
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(compose)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({"services": {"a": {"imagee": "x"}}})


def test_compose_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    settings = tmp_path / "env"
    settings.write_text("".join(f"{name}={value}\n" for name, value in PASSWORDS.items()))
    words = ["--file", str(COMPOSE), "--env-file", str(settings), "--profile", "*"]
    done = _run(*_compose_command(), *words, "config", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _compose_command() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            version = _run(*command, "version", "--short").stdout.lstrip("v")
            if version and not version.startswith("1."):
                return command
    pytest.skip("needs Docker Compose")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_no_password_has_a_default() -> None:
    used = re.findall(r"\$\{(\w*(?:PASSWORD|KEY)\w*)(\W\W)", COMPOSE.read_text())
    assert {name for name, _ in used} == PASSWORDS.keys()
    assert {rule for _, rule in used} == {":?"}


def test_its_images_are_built_by_recipes_that_are_there(compose: dict[str, Any]) -> None:
    built = {
        name: service["build"]
        for name, service in compose["services"].items()
        if "build" in service
    }
    assert built.keys() == {"buckets", "mlflow", "preprocess", "train", "serve"}
    for build in built.values():
        recipe = (ROOT / build["context"] / build["dockerfile"]).read_text()
        arguments = set(re.findall(r"^ARG (\w+)", recipe, re.MULTILINE))
        assert build["args"].keys() <= arguments


def test_what_a_service_waits_for_and_mounts_is_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            healthy = how["condition"] == "service_healthy"
            recipe = services[needed].get("build", {}).get("dockerfile")
            checks = "healthcheck" in services[needed] or (
                recipe and "HEALTHCHECK" in (ROOT / recipe).read_text()
            )
            assert checks or not healthy
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_file()


def test_the_tracking_server_takes_requests_by_the_names_it_is_asked_by(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    allowed = services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    for stage in ("preprocess", "train", "serve"):
        address = services[stage]["environment"]["MLFLOW_TRACKING_URI"]
        assert address.removeprefix("http://") in allowed


def test_only_this_machine_is_answered_unless_it_is_told_otherwise(
    compose: dict[str, Any],
) -> None:
    for service in compose["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("${BIND_ADDRESS:-127.0.0.1}:")


def test_make_services_writes_passwords_once(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    for _ in range(2):
        subprocess.run(["make", "-s", ".env"], cwd=tmp_path, env=environment, check=True)
        written = (tmp_path / ".env").read_text()
        found = dict(re.findall(r"^(\w+)=(.+)$", written, re.MULTILINE))
        assert all(len(found[name]) >= 16 for name in PASSWORDS)
        assert len({found[name] for name in PASSWORDS}) == len(PASSWORDS)
        assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    (tmp_path / ".env").write_text("MINE=1\n")
    subprocess.run(["make", "-s", ".env"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / ".env").read_text() == "MINE=1\n"
