"""Trained models that could not be written to their storage: kept here, and sent later.

Each is a directory ``.unsent/models/<name>-<time>-<chance>/`` with the complete model in ``model/``
and ``unsent.json``, which says where it belongs and holds no key.
"""

from __future__ import annotations

import posixpath
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_project_template import artifacts
from ml_project_template.errors import ArtifactError, DataError
from ml_project_template.utils import io
from ml_project_template.utils.directories import replacing_directory
from ml_project_template.utils.secrets import public_url

__all__ = ["UNSENT", "UnsentModel", "keep_model", "waiting_models"]

UNSENT = Path(".unsent", "models")
"""Where unsent models are kept, below the present working directory."""

_RECORD = "unsent.json"
_MODEL = "model"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class UnsentModel:
    """A model that waits to be sent.

    Attributes:
        directory: Where it is kept.
        target: The model directory it belongs to, a URL.
        endpoint_url: The S3 store it was meant for; None for the one of the environment.
        created_at: When it was kept, by ISO 8601.
    """

    directory: Path
    target: str
    endpoint_url: str | None
    created_at: str

    @property
    def model(self) -> Path:
        """The model directory that is kept: as good as any other."""
        return self.directory / _MODEL

    def send(self, storage_options: Mapping[str, Any] | None = None) -> str:
        """Put the model where it belongs, then remove what was kept.

        Args:
            storage_options: Options of S3; those it was kept with by default.

        Returns:
            The target.

        Raises:
            ArtifactError: What is kept is damaged, or something else is at the target.
            OSError: The storage can't be reached or refuses.
        """
        if storage_options is None:
            storage_options = io.get_storage_options(endpoint_url=self.endpoint_url)
        artifacts.copy_model_directory(
            str(self.model), self.target, storage_options=storage_options
        )
        shutil.rmtree(self.directory)
        return self.target


def keep_model(
    directory: Path, target: str, storage_options: Mapping[str, Any] | None = None
) -> Path:
    """Keep a complete model directory until it can be sent.

    Args:
        directory: The model directory, local.
        target: Where it belongs, a URL.
        storage_options: Options of S3, of which the address of the store is noted.

    Returns:
        Where the model is kept: a model directory like any other.

    Raises:
        OSError: It can't be written here either.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", posixpath.basename(target.rstrip("/"))) or _MODEL
    now = datetime.now(UTC)
    place = UNSENT / f"{name[:80]}-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    endpoint = (storage_options or {}).get("endpoint_url")
    with replacing_directory(place) as new:
        shutil.copytree(directory, new / _MODEL)
        record = {
            "format_version": _FORMAT_VERSION,
            "target": target,
            "endpoint_url": None if endpoint is None else public_url(endpoint),
            "created_at": now.isoformat(timespec="seconds"),
        }
        io.write_json(str(new / _RECORD), record)
    return place / _MODEL


def waiting_models() -> list[UnsentModel]:
    """List the models that wait to be sent, the oldest first.

    Raises:
        ArtifactError: A record is damaged.
    """
    if not UNSENT.is_dir():
        return []
    # A writer that is at work, or died, has a name that starts with a dot.
    places = [place for place in UNSENT.iterdir() if not place.name.startswith(".")]
    return sorted(map(_read, places), key=lambda model: (model.created_at, model.directory))


def _read(place: Path) -> UnsentModel:
    file = place / _RECORD
    try:
        record = io.read_json(str(file))
    except (OSError, DataError) as error:
        raise ArtifactError(f"'{place}' is no unsent model: {error}") from error
    fields: dict[str, object] = record if isinstance(record, dict) else {}
    target, created_at = fields.get("target"), fields.get("created_at")
    endpoint_url = fields.get("endpoint_url")
    if (
        not isinstance(target, str)
        or not isinstance(created_at, str)
        or not isinstance(endpoint_url, str | None)
    ):
        raise ArtifactError(f"'{file}' does not say where its model belongs.")
    return UnsentModel(place, target, endpoint_url, created_at)
