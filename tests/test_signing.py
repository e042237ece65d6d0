"""Models are signed when they are saved, and none is read that nobody trusted has signed."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import stat
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ml_project_template import artifacts, signing
from ml_project_template.artifacts import (
    check_target,
    copy_model_directory,
    open_model_directory,
    sign_model_directory,
    signed_by,
    write_model_directory,
)
from ml_project_template.errors import ArtifactError, ConfigError
from ml_project_template.inference import Inference
from ml_project_template.models import ModelRegistry
from ml_project_template.predictor import Predictor, _load_pyfunc
from ml_project_template.reproduction import read_model_record
from ml_project_template.serving import ServerSettings, create_app
from ml_project_template.serving.served import ModelSource
from ml_project_template.unsent import keep_model, waiting_models
from ml_project_template.utils import io
from tests.object_store import ObjectStore
from tests.servers import train_model
from tests.test_artifacts import contents, inside, model, number_of

SIGNATURE = "manifest.ed25519"


class Keys:
    """Keys of a team, and what its members set in their environment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trusted = folder / "trusted"
        self.trusted.mkdir()
        self._folder = folder
        self._monkeypatch = monkeypatch

    def private(self, name: str) -> Path:
        path = self._folder / f"{name}.pem"
        if not path.exists():
            path.write_bytes(pem(ed25519.Ed25519PrivateKey.generate()))
            path.chmod(0o600)
        return path

    def sign_with(self, name: str | None) -> None:
        self.set(signing.SIGNING_KEY, None if name is None else str(self.private(name)))

    def trust(self, *names: str) -> None:
        for file in self.trusted.iterdir():
            file.unlink()
        for name in names:
            (self.trusted / f"{name}.pem").write_bytes(public_pem(self.private(name)))
        self.set(signing.TRUSTED_KEYS, str(self.trusted) if names else None)

    def set(self, name: str, value: str | None) -> None:
        if value is None:
            self._monkeypatch.delenv(name, raising=False)
        else:
            self._monkeypatch.setenv(name, value)


def pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, phrase: str = "") -> bytes:
    encryption = BestAvailableEncryption(phrase.encode()) if phrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def public_pem(private: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(private.read_bytes(), None).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    (tmp_path / "keys").mkdir()
    return Keys(tmp_path / "keys", monkeypatch)


@pytest.fixture(scope="module")
def bucket(object_store: ObjectStore) -> str:
    return object_store.new_bucket()


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a model may be: on this machine or in a real store."""
    if request.param == "local":
        return str(tmp_path / "models" / "x")
    for name, value in request.getfixturevalue("object_store").environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}/x"


def refusal(path: str) -> str:
    with pytest.raises(ArtifactError) as caught, open_model_directory(path):
        pytest.fail("it was opened")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(path: str, name: str, content: bytes) -> None:
    io.write_bytes(io.join(inside(path), name), content)


# ---- saving and reading


def test_a_model_is_signed_when_it_is_saved_and_read_by_who_trusts_the_key(
    keys: Keys, place: str
) -> None:
    keys.sign_with("team")
    write_model_directory(place, model(7))
    keys.sign_with(None)
    files = contents(place)
    assert signing.trusted_keys() == ()
    keys.trust("team")
    (key,) = signing.trusted_keys()
    # Of the plain algorithm over the plain bytes: any other tool can check it, or make it.
    key.verify(files[SIGNATURE], files["manifest.json"])
    with open_model_directory(place) as directory:
        assert (directory / SIGNATURE).read_bytes() == files[SIGNATURE]
        assert signed_by(directory) == signing.key_name(key)
    keys.trust()
    with open_model_directory(place) as directory:
        assert signed_by(directory) is None


def test_a_model_that_is_not_signed_is_read_by_who_trusts_everybody_alone(
    keys: Keys, place: str
) -> None:
    write_model_directory(place, model(7))
    with open_model_directory(place) as directory:
        assert signed_by(directory) is None
        assert not (directory / SIGNATURE).exists()
    keys.trust("team")
    assert refusal(place) == (
        f"'{place}' is not signed: ML_PROJECT_TRUSTED_KEYS asks for a manifest.ed25519 beside its "
        "manifest.json."
    )


def test_a_signature_of_somebody_else_is_none(keys: Keys, place: str) -> None:
    keys.sign_with("stranger")
    write_model_directory(place, model(7))
    keys.trust("team", "other")
    names = ", ".join(map(signing.key_name, signing.trusted_keys()))
    assert refusal(place) == (
        f"'{place}': no key of ML_PROJECT_TRUSTED_KEYS ({names}) has signed this manifest.json: it "
        "was changed, or signed by somebody else."
    )


def test_keys_are_rotated_without_a_moment_in_which_nothing_can_be_read(
    keys: Keys, tmp_path: Path
) -> None:
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    keys.sign_with("first")
    write_model_directory(old, model(1))
    keys.trust("first", "second")
    keys.sign_with("second")
    write_model_directory(new, model(2))
    for path in (old, new):
        with open_model_directory(path):
            pass
    keys.trust("second")
    assert "has signed this" in refusal(old)
    sign_model_directory(old)
    with open_model_directory(old):
        pass


def test_several_keys_may_stand_in_one_file(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "both.pem"
    both = [public_pem(keys.private(name)) for name in ("first", "second")]
    file.write_bytes(b"# of the team\n" + b"\n".join(both))
    keys.set(signing.TRUSTED_KEYS, str(file))
    for name in ("first", "second"):
        keys.sign_with(name)
        write_model_directory(str(tmp_path / "x"), model(1))
        with open_model_directory(str(tmp_path / "x")):
            pass


def test_nothing_is_parsed_before_the_signature_is_checked(
    keys: Keys, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.sign_with("team")
    write_model_directory(place, model(7))
    keys.trust("team")
    put(place, "manifest.json", b"{")
    monkeypatch.setattr(artifacts, "parse_json", lambda *_: pytest.fail("it was parsed"))
    assert "has signed this manifest.json" in refusal(place)


@pytest.mark.parametrize("size", [0, 63, 65, 10**6])
def test_what_can_be_no_signature_is_refused_by_everybody(
    size: int, keys: Keys, tmp_path: Path
) -> None:
    path = write_model_directory(str(tmp_path / "x"), model(7))
    put(path, SIGNATURE, b"x" * size)
    expected = f"'{path}': manifest.ed25519 is no signature, which has 64 bytes."
    assert refusal(path) == expected
    keys.trust("team")
    assert refusal(path) == expected


def test_a_signature_is_a_plain_file(keys: Keys, tmp_path: Path) -> None:
    keys.sign_with("team")
    keys.trust("team")
    path = Path(write_model_directory(str(tmp_path / "x"), model(7)))
    (path / SIGNATURE).rename(tmp_path / "elsewhere")
    for make, word in (
        (lambda file: file.symlink_to(tmp_path / "elsewhere"), "is a link"),
        (lambda file: os.mkfifo(file), "is not a plain file"),
        (lambda file: file.mkdir(), "is not a plain file"),
    ):
        make(path / SIGNATURE)
        assert word in refusal(str(path))
        if (path / SIGNATURE).is_dir():
            (path / SIGNATURE).rmdir()
        else:
            (path / SIGNATURE).unlink()


def test_a_model_can_not_bring_its_own_signature(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        model(1)(directory)
        (directory / SIGNATURE).write_bytes(b"x" * 64)

    with pytest.raises(ArtifactError, match="can't hold a file named 'manifest.ed25519'"):
        write_model_directory(str(tmp_path / "x"), write)


def test_of_the_model_that_is_replaced_no_signature_is_left(keys: Keys, place: str) -> None:
    keys.sign_with("team")
    write_model_directory(place, model(1))
    keys.sign_with(None)
    write_model_directory(place, model(2))
    assert SIGNATURE not in contents(place)
    assert number_of(place) == 2


def test_a_signed_model_that_another_tool_has_copied_is_read_and_replaced(
    keys: Keys, tmp_path: Path, place: str
) -> None:
    keys.sign_with("team")
    keys.trust("team")
    source = write_model_directory(str(tmp_path / "source"), model(1))
    for file in Path(source).iterdir():
        io.copy(str(file), io.join(place, file.name))
    with open_model_directory(place):
        pass
    write_model_directory(place, model(2))
    with open_model_directory(place) as directory:
        assert b"2" in (directory / "config.json").read_bytes()


# ---- copies


def test_a_copy_is_signed_as_the_model_was_and_by_nobody_else(
    keys: Keys, tmp_path: Path, place: str
) -> None:
    source = write_model_directory(str(tmp_path / "source"), model(1))
    keys.sign_with("team")
    # Who copies has not looked at it.
    copy_model_directory(source, place)
    assert contents(place) == contents(source)
    sign_model_directory(source)
    keys.sign_with(None)
    copy_model_directory(source, place)
    assert contents(place) == contents(source)
    assert SIGNATURE in contents(place)


def test_what_nobody_trusted_has_signed_is_not_copied(keys: Keys, tmp_path: Path) -> None:
    source = write_model_directory(str(tmp_path / "source"), model(1))
    keys.trust("team")
    with pytest.raises(ArtifactError, match="is not signed"):
        copy_model_directory(source, str(tmp_path / "target"))
    assert not (tmp_path / "target").exists()


def test_a_model_that_waits_to_be_sent_keeps_its_signature(
    keys: Keys, workspace: Path, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    keys.sign_with("team")
    made = write_model_directory(str(workspace / "made"), model(1))
    keys.sign_with(None)
    keys.trust("team")
    target = f"s3://{object_store.new_bucket()}/x"
    keep_model(Path(made), target)
    (waiting,) = waiting_models()
    waiting.send()
    with open_model_directory(target) as directory:
        assert signed_by(directory) is not None


# ---- signing what is there


def test_a_model_is_signed_where_it_is_and_nothing_else_is_changed(keys: Keys, place: str) -> None:
    write_model_directory(place, model(6))
    write_model_directory(place, model(7))
    before = contents(place)
    keys.trust("team")
    keys.sign_with("team")
    digest = sign_model_directory(place)
    with open_model_directory(place) as directory:
        assert artifacts.digest(directory) == digest
    after = contents(place)
    assert len(after.pop(SIGNATURE)) == 64
    assert after == before
    if not io.is_remote(place):
        assert [file.name for file in Path(place).parent.iterdir()] == ["x"]
    # The version before is still there to go back to.
    versions = {name.split("/")[1] for name in io.list_files(place) if "versions/" in name}
    assert len(versions) == (2 if io.is_remote(place) else 0)


def test_what_replaces_a_model_while_it_is_signed_is_not_signed(
    keys: Keys, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model_directory(place, model(1))
    sign = artifacts._sign

    def replace_and_sign(directory: Path, key: ed25519.Ed25519PrivateKey) -> None:
        monkeypatch.setattr(artifacts, "_sign", sign)
        keys.sign_with(None)
        write_model_directory(place, model(2))
        sign(directory, key)

    monkeypatch.setattr(artifacts, "_sign", replace_and_sign)
    keys.sign_with("team")
    with pytest.raises(ArtifactError, match="was replaced while it was signed: it is not signed"):
        sign_model_directory(place)
    assert SIGNATURE not in contents(place)
    assert number_of(place) == 2


def test_a_damaged_model_is_not_signed(keys: Keys, place: str) -> None:
    write_model_directory(place, model(1))
    put(place, "weights.safetensors", b"2" * 20_000)
    keys.sign_with("team")
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        sign_model_directory(place)
    assert SIGNATURE not in contents(place)


# ---- every way that reads a model


READERS: dict[str, Callable[[str], object]] = {
    "ModelRegistry": ModelRegistry.load,
    "Predictor": Predictor.load,
    "Inference": Inference.load,
    "the model's own code": lambda path: Inference.load(path, backend="model"),
    "MLflow": _load_pyfunc,
    "reproduction": read_model_record,
    "server": lambda path: create_app({"x": ModelSource(path)}, ServerSettings()),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_asks_for_a_signature(
    reader: str, keys: Keys, iris_model: Path, tmp_path: Path
) -> None:
    path = copy_model_directory(str(iris_model), str(tmp_path / "x"))
    keys.trust("team")
    with pytest.raises(ArtifactError, match="is not signed"):
        READERS[reader](path)
    keys.sign_with("team")
    sign_model_directory(path)
    READERS[reader](path)


def test_a_server_keeps_the_signed_version_until_there_is_another_signed_one(
    keys: Keys, iris_model: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "x")
    keys.trust("team")
    keys.sign_with("team")
    ModelRegistry.load(copy_unchecked(iris_model, path)).save(path)
    app = create_app({"x": ModelSource(path)}, ServerSettings())
    first = app.models["x"].inference.version
    other = ModelRegistry.load(str(train_model(tmp_path / "y", max_iter=5)))
    keys.sign_with(None)
    other.save(path)
    (told,) = asyncio.run(app.models.reload()).values()
    assert "is not signed" in told
    assert app.models["x"].inference.version == first
    keys.sign_with("team")
    sign_model_directory(path)
    (told,) = asyncio.run(app.models.reload(only_changed=True)).values()
    assert told.startswith("loaded ")
    assert app.models.problems == {}


def copy_unchecked(source: Path, target: str) -> str:
    """Copy a model that is not signed, and sign it."""
    shutil.copytree(source, target)
    sign_model_directory(target)
    return target


# ---- keys that can't be used


CANARY = "MC4CAQAwBQYDK2VwBCIEICanaryCanaryCanaryCanaryCanaryCanaryCan"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "the file can't be read: No such file or directory"),
        ("folder", "the file can't be read: Is a directory"),
        ("pasted", "the file can't be read: No such file or directory"),
        ("empty", "the file must hold a private Ed25519 key in PEM, as openssl genpkey"),
        ("broken", "the file must hold a private Ed25519 key in PEM"),
        ("public", "the file must hold a private Ed25519 key in PEM"),
        ("P-256", "the file must hold a private Ed25519 key in PEM"),
        ("encrypted", "the key must be one without a passphrase"),
    ],
)
def test_a_key_that_can_not_sign_is_told_in_one_line_that_shows_nothing_of_it(
    kind: str, message: str, keys: Keys, tmp_path: Path
) -> None:
    path = tmp_path / "hidden-name.pem"
    broken = f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"
    contents = {
        "empty": b"",
        "broken": broken.encode(),
        "public": public_pem(keys.private("team")),
        "P-256": pem(ec.generate_private_key(ec.SECP256R1())),
        "encrypted": pem(ed25519.Ed25519PrivateKey.generate(), "phrase"),
    }
    if kind == "folder":
        path.mkdir()
    elif kind in contents:
        path.write_bytes(contents[kind])
    keys.set(signing.SIGNING_KEY, broken if kind == "pasted" else str(path))
    attempts: list[Callable[[], object]] = [
        lambda: check_target(str(tmp_path / "x")),
        lambda: write_model_directory(str(tmp_path / "x"), model(1)),
        lambda: sign_model_directory(str(tmp_path / "x")),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert str(caught.value).startswith(f"ML_PROJECT_SIGNING_KEY: {message}")
        assert "\n" not in str(caught.value)
        told = "".join(traceback.format_exception(caught.value))
        assert "hidden-name" not in told
        assert CANARY not in told
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no key in '{path}'."),
        ({".hidden": b"", "..data": b""}, "there is no key in '{path}'."),
        ({"notes.txt": b"hello"}, "'{path}/notes.txt' must hold a public Ed25519 key in PEM."),
        (
            {"a.pem": "private"},
            "'{path}/a.pem' holds a private key, and trust needs",
        ),
        ({"a.pem": "both"}, "'{path}/a.pem' holds a private key, and trust needs"),
        ({"a.pem": "P-256"}, "'{path}/a.pem' holds a key that is not of Ed25519."),
        (
            {"a.pem": b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n"},
            "'{path}/a.pem' holds a key that is not of Ed25519.",
        ),
        ({"a.pem": "good", "sub/b.pem": "good"}, "'{path}' can't be read: Is a directory."),
        (None, "'{path}' can't be read: No such file or directory."),
    ],
)
def test_who_trusts_a_key_that_is_none_reads_nothing(
    files: dict[str, bytes | str] | None, message: str, keys: Keys, tmp_path: Path
) -> None:
    model_path = write_model_directory(str(tmp_path / "x"), model(1))
    path = tmp_path / "their-keys"
    private = keys.private("team")
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    known = {
        "private": private.read_bytes(),
        "both": public_pem(private) + private.read_bytes(),
        "P-256": curve.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "good": public_pem(private),
    }
    for name, content in (files or {}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(known[content] if isinstance(content, str) else content)
    if files == {}:
        path.mkdir()
    keys.set(signing.TRUSTED_KEYS, str(path))
    with pytest.raises(ConfigError) as caught, open_model_directory(model_path):
        pytest.fail("it was opened")
    text = str(caught.value)
    assert text.startswith(f"ML_PROJECT_TRUSTED_KEYS: {message.format(path=path)}")
    assert "\n" not in text


def test_a_path_that_was_left_empty_is_no_wish_for_none(keys: Keys, tmp_path: Path) -> None:
    path = write_model_directory(str(tmp_path / "x"), model(1))
    keys.set(signing.TRUSTED_KEYS, "")
    with (
        pytest.raises(ConfigError, match="ML_PROJECT_TRUSTED_KEYS: is empty"),
        open_model_directory(path),
    ):
        pytest.fail("it was opened")
    keys.set(signing.TRUSTED_KEYS, None)
    keys.set(signing.SIGNING_KEY, "")
    with pytest.raises(ConfigError, match="ML_PROJECT_SIGNING_KEY: is empty"):
        write_model_directory(path, model(2))
    assert number_of(path) == 1


def test_nothing_is_computed_for_a_model_that_would_be_refused_where_it_is_made(
    keys: Keys, tmp_path: Path
) -> None:
    path = str(tmp_path / "x")
    keys.trust("team")
    with pytest.raises(ConfigError, match="a model that is made here would be refused here. Set"):
        check_target(path)
    keys.sign_with("stranger")
    with pytest.raises(ConfigError, match="the key is none of ML_PROJECT_TRUSTED_KEYS"):
        check_target(path)
    keys.sign_with("team")
    check_target(path)


def test_no_model_is_trained_that_could_not_be_signed(keys: Keys, iris_model: Path) -> None:
    keys.set(signing.SIGNING_KEY, "nowhere.pem")
    fresh = ModelRegistry.get("gb_classifier")()
    data = iris_rows(iris_model)
    with pytest.raises(ConfigError, match="ML_PROJECT_SIGNING_KEY: the file can't be read"):
        fresh.train(experiment_name="x", train_data=data, tracking=False)


def iris_rows(iris_model: Path) -> object:
    from ml_project_template.data import Preprocessor, TabularDataset

    raw = TabularDataset.from_csv(str(iris_model.parent / "iris.csv"), target_column="target")
    return Preprocessor().fit(raw).transform(raw)


def test_a_training_does_not_lose_its_model_to_a_key_that_has_gone_meanwhile(
    keys: Keys, tmp_path: Path
) -> None:
    keys.sign_with("team")
    keys.trust("team")
    check_target(str(tmp_path / "x"))
    keys.private("team").unlink()
    write_model_directory(str(tmp_path / "x"), model(1))
    with open_model_directory(str(tmp_path / "x")):
        pass


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o602, 1)])
def test_a_key_that_everybody_may_read_is_told_once(
    mode: int, warnings: int, keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys.sign_with("team")
    keys.private("team").chmod(mode)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            write_model_directory(str(tmp_path / "x"), model(1))
    assert [record.getMessage() for record in caplog.records] == warnings * [
        "ML_PROJECT_SIGNING_KEY: everybody on this machine may read the file: chmod 600"
    ]
    assert stat.S_IMODE(keys.private("team").stat().st_mode) == mode


UNUSED = """
import sys
from pathlib import Path
from ml_project_template.artifacts import check_target, write_model_directory
from ml_project_template.inference import Inference
from ml_project_template.models import ModelRegistry

Inference.load(sys.argv[1])
check_target(sys.argv[2])
ModelRegistry.load(sys.argv[1]).save(sys.argv[2])
print([name for name in sys.modules if name.split(".")[0] == "cryptography"])
"""


def test_who_neither_signs_nor_trusts_imports_nothing_for_it(
    iris_model: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", UNUSED, str(iris_model), str(tmp_path / "x")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n"
