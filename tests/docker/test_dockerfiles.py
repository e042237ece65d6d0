"""What the recipes of the images say; `make images-test` builds and runs them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*/Dockerfile"))
IDS = [path.parent.name for path in DOCKERFILES]
STAGES = {"preprocess", "train", "serve"}


def _instructions(dockerfile: Path) -> list[tuple[str, str]]:
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())
    ]


def _last_stage(dockerfile: Path) -> dict[str, str]:
    """Give the last of each instruction of the stage that becomes the image."""
    instructions = _instructions(dockerfile)
    starts = [place for place, (word, _) in enumerate(instructions) if word == "FROM"]
    return dict(instructions[starts[-1] :])


def _extras(dockerfile: Path) -> list[str]:
    [extras] = re.findall(r'^ARG EXTRAS="(.+)"$', dockerfile.read_text(), re.MULTILINE)
    return str(extras).split()


def _copied(dockerfile: Path) -> set[str]:
    """List what is taken from the folder of the project."""
    copied = set(re.findall(r"type=bind,source=(\S+?),", dockerfile.read_text()))
    for word, rest in _instructions(dockerfile):
        if word == "COPY" and "--from=" not in rest:
            copied |= {name for name in shlex.split(rest)[:-1] if not name.startswith("--")}
    return copied


def test_every_stage_has_an_image() -> None:
    assert set(IDS) == STAGES | {"mlflow"}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=IDS)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, dockerfile], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_builds_are_sent_what_they_copy_and_nothing_else() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignore[0] == "*"
    sent = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert set().union(*(_copied(dockerfile) for dockerfile in DOCKERFILES)) == sent
    assert all((ROOT / name).exists() for name in sent)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=IDS)
def test_its_extras_are_those_of_the_project(dockerfile: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(_extras(dockerfile)) <= project["optional-dependencies"].keys()


def test_all_begin_from_the_same_python_and_uv() -> None:
    """The recipes repeat one another, and must not come apart."""
    pinned = r"^ARG (?:UV_VERSION|PYTHON_IMAGE)=\S+$"
    found = {tuple(re.findall(pinned, path.read_text(), re.MULTILINE)) for path in DOCKERFILES}
    assert len(found) == 1
    assert len(found.pop()) == 2


# A digest, or all of a version: "17" or "3.12-slim" is another image next month.
_PINNED = re.compile(
    r"@sha256:[0-9a-f]{64}$|:[\w.-]*\d+\.\d+\.\d+|:RELEASE\.[\dTZ-]{20}$|:\d{2}\.\d+\b"
)


def _images_of_others() -> set[str]:
    """List the images that are taken from elsewhere, as they are called where nothing is set."""
    found = set()
    for path in DOCKERFILES:
        arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", path.read_text(), re.MULTILINE))
        names = re.findall(r"^FROM (?:--\S+ )*(\S+)(?: AS (\S+))?$", path.read_text(), re.MULTILINE)
        own = {stage for _, stage in names}
        for image, _ in names:
            if image in own:
                continue
            for name, value in arguments.items():
                image = image.replace(f"${{{name}}}", value)
            found.add(image)
    compose = (ROOT / "docker-compose.yml").read_text()
    found |= set(re.findall(r"\w*IMAGE:-([^}]+)\}", compose))
    services = yaml.safe_load(compose)["services"].values()
    found |= {s["image"] for s in services if "build" not in s and "$" not in s["image"]}
    # Built by a recipe that another service names.
    return found - {service["image"] for service in services if "build" in service}


def test_images_of_others_are_pinned() -> None:
    images = _images_of_others()
    assert len(images) == 3
    assert [image for image in images if not _PINNED.search(image)] == []


@pytest.mark.parametrize("image", ["postgres", "postgres:17", "python:3.12-slim", "x:latest"])
def test_a_name_that_moves_on_is_not_pinned(image: str) -> None:
    assert not _PINNED.search(image)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=IDS)
def test_it_runs_a_program_of_ours_as_a_user_without_rights(dockerfile: Path) -> None:
    image = _last_stage(dockerfile)
    assert re.fullmatch(r"[1-9]\d{4}:0", image["USER"])
    assert image["STOPSIGNAL"] == "SIGTERM"
    # A shell in between would not pass the signal on.
    assert image["ENTRYPOINT"].startswith("[")
    stage = dockerfile.parent.name
    if stage in STAGES:
        assert f'"entrypoints.{stage}"' in image["ENTRYPOINT"]
        assert (ROOT / "entrypoints" / f"{stage}.py").is_file()
    assert ("HEALTHCHECK" in image) == (stage in ("serve", "mlflow"))
