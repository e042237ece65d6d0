"""Ed25519 signatures (RFC 8032) of model directories: who signs, and whose signatures count.

The keys are PEM files as OpenSSL makes them::

    openssl genpkey -algorithm ed25519 -out signing.pem
    openssl pkey -in signing.pem -pubout -out trusted/team.pem

``ML_PROJECT_SIGNING_KEY`` is the path of the private key: who has it set signs every model that is
saved. ``ML_PROJECT_TRUSTED_KEYS`` is the path of a public key, or of a folder of them: who has it
set reads no model that none of them has signed. Neither the private key nor its path is ever shown:
somebody may have put the key itself where its path belongs.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ml_project_template.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

    # For others, who need not know where they come from.
    PrivateKey: TypeAlias = Ed25519PrivateKey
    PublicKey: TypeAlias = Ed25519PublicKey

__all__ = [
    "SIGNATURE_BYTES",
    "SIGNING_KEY",
    "TRUSTED_KEYS",
    "check_signer",
    "find_signer",
    "key_name",
    "signing_key",
    "trusted_keys",
]

SIGNING_KEY = "ML_PROJECT_SIGNING_KEY"
TRUSTED_KEYS = "ML_PROJECT_TRUSTED_KEYS"
SIGNATURE_BYTES = 64

_MAX_PEM = 64 * 1024  # bytes
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)

_logger = logging.getLogger(__name__)


def signing_key() -> PrivateKey | None:
    """Read the key that models are signed with.

    Returns:
        The key; None where ``ML_PROJECT_SIGNING_KEY`` is not set. It is read once: a training must
        not lose its model to a file that has gone meanwhile.

    Raises:
        ConfigError: It can't be read, or is no Ed25519 key.
    """
    path = _path(SIGNING_KEY)
    return None if path is None else _read_signing_key(path)


def _path(variable: str) -> str | None:
    path = os.environ.get(variable)
    if path == "":
        # As where a secret was not passed on: not the same as a wish for none.
        raise ConfigError(f"{variable}: is empty: give it the path of a PEM file, or unset it.")
    return path


@functools.cache
def _read_signing_key(path: str) -> PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with Path(path).expanduser().open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_PEM)
    except OSError as error:
        raise ConfigError(
            f"{SIGNING_KEY}: the file can't be read: {error.strerror}. It has to be the path of a "
            "PEM file."
        ) from None
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise ConfigError(f"{SIGNING_KEY}: the key must be one without a passphrase.") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{SIGNING_KEY}: the file must hold a private Ed25519 key in PEM, as openssl genpkey "
            "-algorithm ed25519 makes one."
        )
    if mode & stat.S_IRWXO:
        _logger.warning("%s: everybody on this machine may read the file: chmod 600", SIGNING_KEY)
    return key


def trusted_keys() -> tuple[PublicKey, ...]:
    """Read the keys of which one has to have signed a model; anew each time, as they are rotated.

    Returns:
        The keys; none where ``ML_PROJECT_TRUSTED_KEYS`` is not set, and so nothing is asked for.

    Raises:
        ConfigError: There is no key where it points to, or something that is none.
    """
    path = _path(TRUSTED_KEYS)
    if path is None:
        return ()
    place = Path(path).expanduser()
    try:
        files = [place]
        if place.is_dir():
            # What starts with a dot is how Kubernetes exchanges a mounted folder.
            files = sorted(file for file in place.iterdir() if not file.name.startswith("."))
        keys = [key for file in files for key in _read_public_keys(file)]
    except OSError as error:
        raise ConfigError(f"{TRUSTED_KEYS}: '{path}' can't be read: {error.strerror}.") from error
    if not keys:
        # Nobody to trust is not the same as trusting everybody.
        raise ConfigError(f"{TRUSTED_KEYS}: there is no key in '{path}'.")
    return tuple(keys)


def _read_public_keys(file: Path) -> list[PublicKey]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    with file.open("rb") as handle:
        content = handle.read(_MAX_PEM)
    keys = []
    for block in _PEM.finditer(content):
        if b"PRIVATE" in block[1]:
            raise ConfigError(
                f"{TRUSTED_KEYS}: '{file}' holds a private key, and trust needs the public one, "
                "which openssl pkey -pubout makes of it."
            )
        try:
            key = load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"{TRUSTED_KEYS}: '{file}' holds a key that is not of Ed25519.")
        keys.append(key)
    if not keys:
        raise ConfigError(f"{TRUSTED_KEYS}: '{file}' must hold a public Ed25519 key in PEM.")
    return keys


def check_signer() -> None:
    """See, before work is put into a model, that it can be signed, and read here when it is.

    Raises:
        ConfigError: The signing key can't be used, or this very machine would refuse its models.
    """
    key, trusted = signing_key(), trusted_keys()
    if not trusted:
        return
    if key is None:
        raise ConfigError(
            f"{TRUSTED_KEYS} is set and {SIGNING_KEY} is not: a model that is made here would be "
            "refused here. Set both, or unset both."
        )
    if key.public_key() not in trusted:
        raise ConfigError(
            f"{SIGNING_KEY}: the key is none of {TRUSTED_KEYS}: a model that is made here would be "
            "refused here."
        )


def find_signer(content: bytes, signature: bytes, keys: Sequence[PublicKey]) -> PublicKey | None:
    """Find who has signed.

    Args:
        content: What was signed.
        signature: The signature, of 64 bytes.
        keys: Who may have.

    Returns:
        The key; None if it was none of them, or they have signed something else.
    """
    from cryptography.exceptions import InvalidSignature

    for key in keys:
        try:
            key.verify(signature, content)
        except InvalidSignature:
            continue
        return key
    return None


def key_name(key: PublicKey) -> str:
    """Name a key as it can be told: by its digest.

    Args:
        key: A public key.

    Returns:
        The first 16 digits of ``openssl pkey -pubin -in team.pem -outform DER | sha256sum``.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    content = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(content).hexdigest()[:16]
