"""Takes out of notebooks what running them has put in: ``python -m tests.notebooks.strip``."""

from __future__ import annotations

import json
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"

# What an editor needs to know to open one; the rest is of the machine that it was run on.
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def strip(text: str) -> str:
    """Give a notebook as it is to be committed: what a person wrote, and nothing else.

    Args:
        text: The content of its file.
    """
    notebook = json.loads(text)
    notebook["metadata"] = _METADATA
    for number, cell in enumerate(notebook["cells"]):
        # Editors draw the names of cells at random, and keep those they find.
        cell |= {"id": f"cell-{number:02d}", "metadata": {}}
        cell.pop("attachments", None)
        if cell["cell_type"] == "code":
            cell |= {"execution_count": None, "outputs": []}
        # One line of the file for each of the cell, in the order that Jupyter writes.
        cell["source"] = "".join(cell["source"]).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Strip all notebooks of the project."""
    for path in NOTEBOOKS.glob("*.ipynb"):
        before = path.read_text("utf-8")
        after = strip(before)
        if after != before:
            path.write_text(after, "utf-8")
            print(f"stripped {path.name}")


if __name__ == "__main__":
    main()
