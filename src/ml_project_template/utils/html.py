"""Pages that need neither a network nor another file: their style, their tables, their text."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence

__all__ = ["code", "definition_list", "page", "table", "text"]


def text(value: str) -> str:
    """Write a text so that it is read as it stands, in an element or an attribute."""
    return html.escape(value)


def code(value: str) -> str:
    """Write a text as a name or a value."""
    return f"<code>{text(value)}</code>"


def page(title: str, content: str, *, style: str = "") -> str:
    """Make a page.

    Args:
        title: Its heading.
        content: What stands below it, HTML.
        style: CSS, besides that of all pages.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<main>
<h1>{text(title)}</h1>
{content}
</main>
</body>
</html>
"""


def definition_list(values: Mapping[str, str]) -> str:
    """Make a list of names and what they name; nothing where there are none."""
    terms = "".join(
        f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in values.items()
    )
    return f"<dl>{terms}</dl>" if terms else ""


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    wide: Collection[str] = (),
    markup: Collection[str] = (),
) -> str:
    """Make a table in a box that scrolls.

    Args:
        caption: What it shows.
        header: The names of the columns.
        rows: Texts, a list for each row.
        wide: Columns of sentences, which may break.
        markup: Columns that are HTML already.
    """
    heads = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    words = ' class="words"'
    lines = [
        "<tr>"
        + "".join(
            f"<td{words if name in wide and cell else ''}>"
            f"{cell if name in markup else text(cell)}</td>"
            for name, cell in zip(header, row, strict=True)
        )
        + "</tr>"
        for row in rows
    ]
    # Who has no mouse scrolls a box by the arrow keys, if it can have the focus.
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="{text(caption)}"><table>\n'
        f"<caption>{text(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5a626b; --page: #fbfbfc;
  --box: #fff; --line: #d9dde2; --head: #f0f2f5; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --soft: #a3abb5; --page: #15181c; --box: #1c2026; --line: #363c45;
    --head: #262b33; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .2rem; }
p { margin: .4rem 0; max-width: 48rem; overflow-wrap: anywhere; }
code { font-size: .9em; padding: .1em .3em; border-radius: 3px; background: var(--head); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.box { overflow: auto; max-height: 34rem; margin: 0 0 1.2rem; border: 1px solid var(--line);
  border-radius: 6px; background: var(--box); }
table { border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
caption { padding: .5rem .7rem; color: var(--soft); text-align: left; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap;
  border-top: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--head); }
td.words { min-width: 24rem; text-align: left; white-space: normal; overflow-wrap: anywhere; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 48rem; margin-bottom: .5rem; }
.card { display: grid; gap: .5rem; grid-template-columns: repeat(var(--columns), minmax(0, 1fr));
  padding: .5rem; border: 1px solid var(--line); border-radius: 6px; background: #fff;
  overflow-x: auto; color-scheme: light; }
@media (max-width: 48rem) { .card { grid-template-columns: minmax(0, 1fr); } }
"""
