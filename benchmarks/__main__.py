"""How long things take, beside the other ways to do them, in one run.

    python -m benchmarks                    # all, some minutes
    python -m benchmarks fitting tracking   # these alone
    python -m benchmarks --json bench.json  # the figures beside the tables

Each part is a module with a function ``measure`` and can be run by itself with more settings, such
as ``python -m benchmarks.fitting --help``. ``docs/performance.md`` tells what is compared and why.
How well models predict is another question: ``python -m benchmarks.quality``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path

from benchmarks.harness import Report

PARTS = ("fitting", "boosting", "startup", "tracking", "sweeps", "data")


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line.

    Returns:
        0; aims that are missed are told, for a busy machine misses them too.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args(arguments)
    wrong = sorted(set(options.parts) - set(PARTS))
    if wrong:
        parser.error(f"no such part: {', '.join(wrong)}. There are: {', '.join(PARTS)}.")
    reports: list[Report] = []
    for name in options.parts or PARTS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        for report in importlib.import_module(f"benchmarks.{name}").measure():
            print(f"{report}\n", flush=True)
            reports.append(report)
    aims = [aim for report in reports for aim in report.aims]
    print(f"{sum(aim.met for aim in aims)} of {len(aims)} aims are met")
    for aim in aims:
        if not aim.met:
            print(aim)
    if options.json:
        machine = {"python": platform.python_version(), "processors": os.cpu_count()}
        found = {"machine": machine, "reports": [report.to_dict() for report in reports]}
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
