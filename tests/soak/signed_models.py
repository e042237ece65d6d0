"""Put every kind of wrong signature beside a model, and every change beside a right one.

    python -m tests.soak.signed_models --attempts 100000

Somebody can write to the place where signed models are, and has old ones, others of the same team
and the public keys, but not the private ones. The signature is changed, cut, taken from another
model or from an older one, made by another key or another algorithm, or is one that weak verifiers
take; or it stays as it is and the manifest, a file or the directory is changed. The reader trusts
two keys.

Each attempt is read by one of the ways that there are: the registry, the server's, a copy, and the
opening below all of them. The exit status is 1 if one was *accepted*; if something was *parsed* of
a model whose signature is wrong; or if it *failed* with anything but one of our errors in one line,
or made the reader *hang*. The models as they were signed have to be read before and afterwards.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ml_project_template import artifacts, signing
from ml_project_template.errors import ProjectError
from ml_project_template.inference import Inference
from ml_project_template.models import ModelRegistry
from tests.soak.mutated_models import Random, make_models

_HANG_SECONDS = 30
_WRONG = ("accepted", "parsed", "failed", "hung")
# The order of the group and the encodings of its points of small order: RFC 8032, 5.1, and
# https://eprint.iacr.org/2020/1244, table 1.
_ORDER = 2**252 + 27742317777372353535851937790883648493
_SMALL = [
    bytes.fromhex(point)
    for point in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    )
]

Files = dict[str, bytes]


@dataclass(frozen=True)
class Loot:
    """What an attacker has.

    Attributes:
        files: A model, with its signature.
        others: Other models that the same keys have signed, older ones of the same name among them.
        stranger: A key that nobody trusts.
    """

    files: Files
    others: list[Files]
    stranger: ed25519.Ed25519PrivateKey

    @property
    def manifest(self) -> bytes:
        return self.files[artifacts.MANIFEST]

    @property
    def signature(self) -> bytes:
        return self.files[artifacts.MANIFEST_SIGNATURE]


# ---- signatures that are wrong


def _flipped(loot: Loot, draw: Random) -> bytes:
    changed = bytearray(loot.signature)
    for _ in range(int(draw.integers(1, 5))):
        changed[int(draw.integers(64))] ^= 1 << int(draw.integers(8))
    return bytes(changed) if changed != loot.signature else bytes(64)


def _of_another_length(loot: Loot, draw: Random) -> bytes:
    length = int(draw.integers(0, 200))
    return (loot.signature + draw.bytes(200))[: length if length != 64 else 65]


def _by_another_algorithm(loot: Loot, draw: Random) -> bytes:
    if draw.random() < 0.5:
        return ed448.Ed448PrivateKey.generate().sign(loot.manifest)[:64]
    key = ec.generate_private_key(ec.SECP256R1())
    parts = utils.decode_dss_signature(key.sign(loot.manifest, ec.ECDSA(hashes.SHA256())))
    return b"".join(part.to_bytes(32, "big") for part in parts)


def _with_a_second_form_of_its_number(loot: Loot, draw: Random) -> bytes:
    # The same signature to whoever does not see that its second half is less than the order.
    point, number = loot.signature[:32], int.from_bytes(loot.signature[32:], "little")
    number += _ORDER * int(draw.integers(1, 15))
    return point + number.to_bytes(32, "little")


def _of_small_order(loot: Loot, draw: Random) -> bytes:
    point = _SMALL[int(draw.integers(len(_SMALL)))]
    number = 0 if draw.random() < 0.5 else int(draw.integers(2**60))
    return point + number.to_bytes(32, "little")


def _as_text(loot: Loot, draw: Random) -> bytes:
    forms = [
        loot.signature.hex().encode(),
        base64.b64encode(loot.signature),
        json.dumps({"signature": loot.signature.hex()}).encode(),
        loot.signature + b"\n",
    ]
    return forms[int(draw.integers(len(forms)))]


def _of_another_model(loot: Loot, draw: Random) -> bytes:
    other = loot.others[int(draw.integers(len(loot.others)))]
    return other[artifacts.MANIFEST_SIGNATURE]


SIGNATURES: dict[str, Callable[[Loot, Random], bytes]] = {
    "flipped": _flipped,
    "of another length": _of_another_length,
    "random": lambda _, draw: draw.bytes(64),
    "by another key": lambda loot, _: loot.stranger.sign(loot.manifest),
    "by another algorithm": _by_another_algorithm,
    "with a second form of its number": _with_a_second_form_of_its_number,
    "of small order": _of_small_order,
    "as text": _as_text,
    "of another model": _of_another_model,
}


# ---- models that are changed beside a right signature


def _changed(content: bytes, draw: Random) -> bytes:
    changed = bytearray(content)
    way, place = int(draw.integers(4)), int(draw.integers(len(changed)))
    if way == 0:
        changed[place] ^= 1 << int(draw.integers(8))
    elif way == 1:
        del changed[place:]
    elif way == 2:
        changed[place:place] = draw.bytes(int(draw.integers(1, 50)))
    else:
        changed += b" "
    return bytes(changed)


def _manifest(loot: Loot, files: Files, draw: Random) -> None:
    files[artifacts.MANIFEST] = _changed(loot.manifest, draw)


def _same_manifest(loot: Loot, files: Files, draw: Random) -> None:
    listed = json.loads(loot.manifest)
    forms = [
        json.dumps(listed).encode(),
        json.dumps(listed, indent=2, sort_keys=True).encode(),
        json.dumps(dict(reversed(listed.items())), indent=2).encode(),
    ]
    files[artifacts.MANIFEST] = forms[int(draw.integers(len(forms)))]


def _resealed(loot: Loot, files: Files, draw: Random) -> None:
    """Change a file, and say so in the manifest."""
    name = _listed(files, draw)
    files[name] = _changed(files[name], draw)
    listed = json.loads(loot.manifest)
    listed["files"][name] = {
        "size": len(files[name]),
        "sha256": hashlib.sha256(files[name]).hexdigest(),
    }
    files[artifacts.MANIFEST] = (json.dumps(listed, indent=2) + "\n").encode()


def _resealed_by_a_stranger(loot: Loot, files: Files, draw: Random) -> None:
    _resealed(loot, files, draw)
    signature = loot.stranger.sign(files[artifacts.MANIFEST])
    files[artifacts.MANIFEST_SIGNATURE] = signature


def _listed(files: Files, draw: Random) -> str:
    about = {artifacts.MANIFEST, artifacts.MANIFEST_SIGNATURE}
    return str(draw.choice(sorted(files.keys() - about)))


def _file(loot: Loot, files: Files, draw: Random) -> None:
    name = _listed(files, draw)
    files[name] = _changed(files[name], draw)


def _missing(loot: Loot, files: Files, draw: Random) -> None:
    del files[_listed(files, draw)]


def _added(loot: Loot, files: Files, draw: Random) -> None:
    files[str(draw.choice(["more.json", "manifest.ed448", "manifest.sig", "x"]))] = b"{}"


def _of_another(loot: Loot, files: Files, draw: Random) -> None:
    """Take a file of another signed model."""
    other = loot.others[int(draw.integers(len(loot.others)))]
    name = str(draw.choice(sorted(files.keys() & other.keys())))
    if files[name] == other[name]:
        name = artifacts.MANIFEST
    files[name] = other[name]


CHANGES: dict[str, Callable[[Loot, Files, Random], None]] = {
    "another manifest": _manifest,
    "the manifest in another form": _same_manifest,
    "a changed file that the manifest knows of": _resealed,
    "the same, signed by another key": _resealed_by_a_stranger,
    "a changed file": _file,
    "a missing file": _missing,
    "a file more": _added,
    "a file of another model": _of_another,
}
# Here the signature is right, so the manifest may be parsed.
_SIGNED = ("a changed file", "a missing file", "a file more", "a file of another model")


def _put_aside(place: Path, draw: Random) -> None:
    """Put something that is no plain file in the place of the signature, or nothing."""
    file = place / artifacts.MANIFEST_SIGNATURE
    way = int(draw.integers(5))
    if way == 0:
        file.unlink()
    elif way == 1:
        # A right one, but somewhere else.
        aside = place.parent / "aside"
        file.rename(aside)
        file.symlink_to(aside)
    elif way == 2:
        file.unlink()
        os.mkfifo(file)
    elif way == 3:
        file.unlink()
        file.mkdir()
    else:
        file.unlink()
        file.symlink_to("/dev/zero")


# ---- reading them


def _opened(place: Path) -> None:
    with artifacts.open_model_directory(place):
        pass


READERS: list[Callable[[Path], object]] = [
    _opened,
    ModelRegistry.load,
    lambda place: Inference.load(str(place)),
    lambda place: artifacts.copy_model_directory(str(place), str(place.parent / "copy")),
]


class _HungError(Exception):
    """A reader did not come back."""


def _hang(*_: Any) -> None:
    raise _HungError


def _attempt(loot: Loot, place: Path, seed: int) -> tuple[str, str]:
    """Make a model that nobody trusted has signed, and read it; gives the way and the outcome."""
    draw = np.random.default_rng(seed)
    ways = [*SIGNATURES, *CHANGES, "no plain file"]
    way = ways[seed % len(ways)]
    files = dict(loot.files)
    if way in SIGNATURES:
        files[artifacts.MANIFEST_SIGNATURE] = SIGNATURES[way](loot, draw)
    elif way in CHANGES:
        CHANGES[way](loot, files, draw)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    if way == "no plain file":
        _put_aside(place, draw)
    parsed: list[object] = []

    def parse(content: bytes, where: str) -> Any:
        parsed.append(where)
        return original(content, where)

    original = artifacts.parse_json
    with mock.patch.object(artifacts, "parse_json", parse):
        outcome = _read(READERS[int(draw.integers(len(READERS)))], place)
    if outcome == "refused" and parsed and way not in _SIGNED:
        outcome = "parsed"
    return way, outcome


def _read(reader: Callable[[Path], object], place: Path) -> str:
    signal.alarm(_HANG_SECONDS)
    try:
        reader(place)
    except ProjectError as error:
        return "failed" if "\n" in str(error) or len(str(error)) > 2_000 else "refused"
    except _HungError:
        return "hung"
    except Exception:
        return "failed"
    finally:
        signal.alarm(0)
    return "accepted"


def attack(folder: Path, first: int, last: int) -> tuple[dict[str, Counter[str]], list[int]]:
    """Try what an attacker may try.

    Args:
        folder: An empty folder.
        first: The first seed; each is an attempt of its own.
        last: The seed after the last.

    Returns:
        Way to how often which outcome was seen, and the seeds of those that must not be.
    """
    found: dict[str, Counter[str]] = {}
    wrong = []
    with _team(folder) as loot:
        place = folder / "place" / "model"
        place.parent.mkdir()
        for seed in range(first, last):
            way, outcome = _attempt(loot, place, seed)
            found.setdefault(way, Counter())[outcome] += 1
            if outcome in _WRONG:
                wrong.append(seed)
    return found, wrong


@contextlib.contextmanager
def _team(folder: Path) -> Iterator[Loot]:
    """Have a team whose models are signed, and read them as one who trusts its keys."""
    trusted = folder / "trusted"
    trusted.mkdir()
    before = signal.signal(signal.SIGALRM, _hang)
    with mock.patch.dict(os.environ):
        for name in ("first", "second"):
            key = ed25519.Ed25519PrivateKey.generate()
            private = folder / f"{name}.pem"
            private.write_bytes(
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            )
            private.chmod(0o600)
            public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (trusted / f"{name}.pem").write_bytes(public)
        os.environ[signing.SIGNING_KEY] = str(folder / "second.pem")
        models = [*make_models(folder, ["linear", "mlp"]).values()]
        older = folder / "older"
        shutil.copytree(models[0], older)
        models[0] = Path(ModelRegistry.load(models[0]).save(models[0]))
        model = ModelRegistry.load(models[0])
        model.metadata["created_at"] = "2020-01-01T00:00:00+00:00"
        model.save(older)
        os.environ[signing.SIGNING_KEY] = str(folder / "first.pem")
        artifacts.sign_model_directory(str(models[1]))
        del os.environ[signing.SIGNING_KEY]
        os.environ[signing.TRUSTED_KEYS] = str(trusted)
        try:
            for path in (*models, older):
                ModelRegistry.load(path)
            yield Loot(
                _files(models[0]),
                [_files(models[1]), _files(older)],
                ed25519.Ed25519PrivateKey.generate(),
            )
            for path in models:
                for reader in READERS:
                    reader(path)
        finally:
            signal.signal(signal.SIGALRM, before)


def _files(place: Path) -> Files:
    return {file.name: file.read_bytes() for file in place.iterdir()}


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attempts", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        last = options.first + options.attempts
        found, wrong = attack(Path(scratch), options.first, last)
    for way, counts in found.items():
        print(f"{way}: {_text(counts)}")
    total = sum(found.values(), Counter())
    print(f"{sum(total.values())} models that nobody trusted has signed: {_text(total)}")
    for seed in wrong[:10]:
        print(f"  again: --first {seed} --attempts 1")
    return int(bool(wrong))


def _text(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("refused", *_WRONG))


if __name__ == "__main__":
    sys.exit(main())
