"""List what the project is made of: a CycloneDX file with the licence of each package.

    make sbom

uv writes the file from ``uv.lock``, with each package's version and hashes; here the licences are
added that the installed packages tell of, and counted. A package that is for another system is not
installed here, and so has none.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

_LONGEST_NAME = 80  # some put the text of their licence where its name belongs
UNKNOWN = "unknown"


def licence_of(distribution: Distribution) -> str:
    """Say which licence a package tells of.

    Args:
        distribution: The installed package.

    Returns:
        Its SPDX expression (PEP 639), else what its classifiers or its metadata say.
    """
    metadata = distribution.metadata
    if "License-Expression" in metadata:
        return str(metadata["License-Expression"])
    classifiers = metadata.get_all("Classifier") or []
    names = [text.split(" :: ")[-1] for text in classifiers if text.startswith("License ::")]
    names = [name for name in names if name != "OSI Approved"]
    if names:
        return " / ".join(names)
    lines = str(metadata["License"]).strip().splitlines() if "License" in metadata else []
    return lines[0].strip()[:_LONGEST_NAME] if lines else UNKNOWN


def add_licences(document: dict[str, Any], distributions: Iterable[Distribution]) -> Counter[str]:
    """Add licences to a CycloneDX document.

    Args:
        document: As uv writes it; changed in place.
        distributions: The installed packages.

    Returns:
        How many packages have which licence.
    """
    known = {
        distribution.name.lower().replace("_", "-"): distribution for distribution in distributions
    }
    counts: Counter[str] = Counter()
    for component in document["components"]:
        distribution = known.get(component["name"].lower().replace("_", "-"))
        licence = UNKNOWN if distribution is None else licence_of(distribution)
        counts[licence] += 1
        if licence != UNKNOWN:
            component["licenses"] = [{"license": {"name": licence}}]
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="what uv export wrote; the licences are added")
    options = parser.parse_args(arguments)
    document = json.loads(options.file.read_text(encoding="utf-8"))
    counts = add_licences(document, importlib.metadata.distributions())
    new = options.file.with_name(f"{options.file.name}.new")
    new.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    new.replace(options.file)
    for licence, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        print(f"{count:5d}  {licence}")
    print(f"{sum(counts.values()):5d}  packages, in {options.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
