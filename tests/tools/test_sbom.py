"""The list of what the project is made of."""

from __future__ import annotations

import json
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

from tools import sbom


class _Package(Distribution):
    def __init__(self, metadata: str) -> None:
        self._text = metadata

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: x", "MIT OR Apache-2.0"),
        (
            "Classifier: License :: OSI Approved\n"
            "Classifier: License :: OSI Approved :: BSD License\nLicense: x",
            "BSD License",
        ),
        ("License: BSD 3-Clause\n        All rights reserved.", "BSD 3-Clause"),
        ("Summary: none", sbom.UNKNOWN),
    ],
)
def test_a_licence_is_found_where_packages_tell_of_it(lines: str, licence: str) -> None:
    assert sbom.licence_of(_Package(f"Name: x\nVersion: 1\n{lines}\n")) == licence


def test_licences_are_added_to_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sbom.json"
    names = ["hydra-core", "numpy", "of-another-system"]
    document = {"bomFormat": "CycloneDX", "components": [{"name": name} for name in names]}
    file.write_text(json.dumps(document))
    assert sbom.main([str(file)]) == 0
    found = {c["name"]: c.get("licenses") for c in json.loads(file.read_text())["components"]}
    assert found["hydra-core"] == [{"license": {"name": "MIT"}}]
    assert "BSD-3-Clause" in found["numpy"][0]["license"]["name"]
    assert found["of-another-system"] is None
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["3", "packages,"]
