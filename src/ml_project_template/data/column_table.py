"""What was found out about the columns of a table, in a few lines for its owner to look over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ml_project_template.data.column_types import date_text

if TYPE_CHECKING:
    from ml_project_template.data.signature import Feature, Signature

__all__ = ["describe_columns"]

_MOST_ROWS = 30
_WIDTH = 40  # characters of a name, of levels or of a note

_KINDS = {
    "float": "numbers",
    "int": "numbers",
    "bool": "truth values",
    "category": "categories",
    "date": "dates",
}
_LEFT_OUT = {
    "identifier": "left out: names or numbers the rows",
    "constant": "left out: one value alone",
    "columns": "left out by data.columns",
    "split": "left out: splits the rows",
}

_Row = tuple[str, str, str, str, str]


def describe_columns(signature: Signature, dropped: Mapping[str, str]) -> list[str]:
    """Describe the columns: in one line where all are numbers without gaps, else as a table.

    Args:
        signature: Of the raw training rows.
        dropped: Column name to why it was left out, as ``TabularDataset.dropped``.

    Returns:
        Lines. Of a wide table the columns with something to tell, and how many others there are.
    """
    target = _target(signature)
    plain = [feature for feature in signature.features if _is_plain(feature)]
    if len(plain) == len(signature.features) and not dropped:
        return [f"Columns: {len(plain)} features: numbers; '{signature.target}': {target}"]
    features = list(signature.features)
    room = _MOST_ROWS - 1 - min(len(dropped), _MOST_ROWS // 2)
    if len(features) > room:
        shown = [feature for feature in features if not _is_plain(feature)][:room]
        shown = shown or features[:room]
    else:
        shown = features
    left_out = list(dropped.items())[: _MOST_ROWS // 2]
    rows: list[_Row] = [("column", "type", "missing", "values", "note")]
    rows += [_row(feature) for feature in shown]
    rows += [(_cut(name), "", "", "", _LEFT_OUT[why]) for name, why in left_out]
    rows.append((_cut(signature.target), "target", "", "", target))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    names = {feature.name for feature in shown}
    others = Counter(_KINDS[feature.type] for feature in features if feature.name not in names)
    if others:
        kinds = ", ".join(kind if len(others) == 1 else f"{n} {kind}" for kind, n in others.items())
        lines.append(f"... and {others.total()} more: {kinds}")
    if len(dropped) > len(left_out):
        lines.append(f"... and {len(dropped) - len(left_out)} more that are left out")
    return lines


def _is_plain(feature: Feature) -> bool:
    """Say whether a feature is numbers without gaps and not all the same."""
    return _KINDS[feature.type] == "numbers" and not feature.missing and not _note(feature)


def _row(feature: Feature) -> _Row:
    missing = f"{feature.missing:.1%}" if feature.missing else ""
    return _cut(feature.name), feature.type, missing, _values(feature), _note(feature)


def _values(feature: Feature) -> str:
    if feature.levels is not None:
        return _cut(f"{len(feature.levels)}: {', '.join(feature.levels)}")
    if feature.min is None or feature.max is None:
        return ""
    if feature.type == "date":
        return f"{date_text(feature.min)} to {date_text(feature.max)}"
    if feature.type == "bool":
        return f"{feature.mean:.1%} true"
    return f"{feature.min:.6g} to {feature.max:.6g}"


def _note(feature: Feature) -> str:
    if feature.missing == 1.0:
        return "no value"
    one = feature.min == feature.max if feature.levels is None else len(feature.levels) == 1
    return "constant" if one else ""


def _target(signature: Signature) -> str:
    if signature.target_quantiles is not None:
        low, high = signature.target_quantiles[0], signature.target_quantiles[-1]
        return f"regression, {low:.6g} to {high:.6g}"
    names = signature.class_names
    listed = _cut(f"{len(names)} classes: {', '.join(names)}")
    return f"classification, {listed}"


def _cut(text: str) -> str:
    # A line each, whatever is in a name.
    text = " ".join(text.split())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
