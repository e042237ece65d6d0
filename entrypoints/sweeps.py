"""List the studies that sweeps have left, or show one."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, run
from entrypoints._summary import best_facts, command, facts, terminal_width
from entrypoints.onboard import storage_options

if TYPE_CHECKING:
    from ml_project_template.sweeps.results import SweepResults
    from ml_project_template.sweeps.storage import StudyStore

log = logging.getLogger(__name__)


def sweeps(cfg: DictConfig) -> str:
    """Describe the studies in ``cfg.sweep.storage``, or the one that ``cfg.study`` names.

    Args:
        cfg: The configuration, see ``conf/sweeps.yaml``.

    Returns:
        Lines of text.

    Raises:
        SweepError: There is no such study, or the storage can't be read.
    """
    from ml_project_template.sweeps.storage import default_storage, open_store
    from ml_project_template.tracking_address import tracking_uri

    uri = tracking_uri(cfg.tracking.uri) if cfg.tracking.enabled else None
    store = open_store(cfg.sweep.storage or default_storage(uri))
    if cfg.study is None:
        return _list(store, cfg.limit)
    return _show(store, cfg)


def _list(store: StudyStore, limit: int) -> str:
    from ml_project_template.sweeps.study import read_results

    names = store.names()
    if not names:
        return f"No sweep has left a study in {store.shown} yet."
    rows = [("study", "trials", "best", "begun", "command")]
    # The newest first: it is the one that is looked for.
    for name in reversed(names[-limit:]):
        results, about, _ = read_results(store, name)
        begun = min((t.started for t in results.trials if t.started is not None), default=None)
        rows.append(
            (
                name,
                _counts(results),
                _best(results),
                f"{begun:%Y-%m-%d %H:%M}" if begun else "-",
                str(about.get("command", "-")),
            )
        )
    more = f"\nand {len(names) - limit} older ones" if len(names) > limit else ""
    return "\n".join(_columns(rows)) + more


def _show(store: StudyStore, cfg: DictConfig) -> str:
    from ml_project_template.sweeps.study import read_results
    from ml_project_template.sweeps.tables import failures_table, results_table

    results, about, study = read_results(store, cfg.study)
    rows = [("study", f"{results.name} in {store.shown}"), ("trials", _counts(results))]
    rows += best_facts(results)
    report: dict[str, Any] = about.get("report") or {}
    if report.get("model"):
        rows.append(("model", report["model"]))
    if report.get("folder"):
        rows.append(("report", f"{report['folder']}/sweep.html"))
    if about.get("command"):
        rows.append(("go on", command(["train", *shlex.split(about["command"])])))
    if cfg.output is not None:
        from ml_project_template.sweeps.page import sweep_page
        from ml_project_template.utils.io import write_bytes

        text = sweep_page(results, study, title=results.name, facts=dict(rows))
        write_bytes(cfg.output, text.encode(), storage_options(cfg))
        log.info("Sweeps: the page of %s is in %s", results.name, cfg.output)
    failures = failures_table(results, limit=cfg.limit)
    return "\n".join(
        [
            results_table(results, limit=cfg.limit, width=terminal_width()),
            *(["", failures] if failures else []),
            "",
            *facts(rows),
        ]
    )


def _counts(results: SweepResults) -> str:
    ended = len(results.complete) + len(results.pruned) + len(results.failed)
    parts = [f"{ended} of {results.n_trials}"]
    running = sum(trial.state == "running" for trial in results.trials)
    for name, count in (
        ("pruned", len(results.pruned)),
        ("failed", len(results.failed)),
        ("running", running),
    ):
        if count:
            parts.append(f"{count} {name}")
    return ", ".join(parts)


def _best(results: SweepResults) -> str:
    best = results.best
    if best is None or best.values is None:
        return f"{len(results.pareto())} Pareto-optimal" if results.complete else "-"
    return f"{results.objectives[0].metric} {best.values[0]:.4g}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@entrypoint("sweeps")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    print(sweeps(cfg))


if __name__ == "__main__":
    run(main)
