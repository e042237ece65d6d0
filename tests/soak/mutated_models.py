"""Change saved models in every way there is, load each, and see that nothing but a refusal comes.

    python -m tests.soak.mutated_models --mutations 100000

One model of each kind is trained and saved; then files of it are changed: bytes, JSON values, keys,
arrays, the schema of a scikit-learn estimator, the manifest, the directory itself. Half of the
changed models are sealed anew, as somebody does who writes model directories to do harm: their
manifest agrees with the files, and what is in these has to be checked. The others are damaged: none
of them may be loaded.

Each is loaded by the registry and by the server's way, and asked, in a process in which an audit
hook sees what is run, opened for writing or connected to. A line for each kind of model tells what
was seen; the exit status is 1 if any of them was *accepted* though damaged, *executed* something,
*failed* with anything but one of our errors in one line, *answered* with what is no number,
*crashed* the process or made it *hang*. Files of LightGBM and CatBoost are parsed by these
libraries alone, so they are not sealed anew: see ``docs/model-directory.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.sources import onboard
from ml_project_template.errors import ProjectError
from ml_project_template.inference import Inference
from ml_project_template.models import BaseModel, ModelRegistry

_HANG_SECONDS = 120  # of a machine that may have much else to do
_WRONG = ("accepted", "executed", "failed", "answered", "crashed", "hung")
_CLOSED = frozenset({artifacts.WEIGHTS_CATBOOST, artifacts.WEIGHTS_LIGHTGBM})

SETTINGS: dict[str, dict[str, Any]] = {
    "linear": {},
    "gb": {"max_iter": 4},
    "gb exact": {"booster": "exact", "max_iter": 3},
    "random_forest": {"n_estimators": 3},
    "mlp": {"layer_dims": [None, 6, None], "normalization": "batch", "dropout": 0.1},
    "tabm": {"layer_dims": [None, 6, None], "members": 2},
    "xgboost": {"max_iter": 3},
    "lightgbm": {"max_iter": 3},
    "catboost": {"max_iter": 3},
}

HOSTILE: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        255,
        2**31,
        -(2**63),
        2**63,
        10**40,
        0.5,
        -0.0,
        1e308,
        1e-320,
    ),
    *("", "x", "nan", "NaN", "inf", "\x00", "../../etc/passwd", "/dev/zero", "file:///etc/passwd"),
    *(
        "${oc.env:HOME}",
        "${oc.env:AWS_SECRET_ACCESS_KEY}",
        "os.system",
        "builtins.eval",
        "a" * 5000,
    ),
    *([], [[]], [None], [0] * 300, {}, {"": 0}, {"_target_": "os.system", "command": "true"}),
    {"_target_": "subprocess.run", "_args_": [["true"]]},
    *("posix.system", "torch.utils.collect_env.run", "joblib.load", "numpy.load", "pickle.loads"),
]
RAW_VALUES = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "[" * 4000 + "]" * 4000,
    "",
    '"\\ud800"',
]
EXTREMES = [math.nan, math.inf, -math.inf, 1e300, -1, 0, 1, 2, 5, 1000, 2**31 - 1, -(2**31)]
KINDS: list[Any] = [
    np.int8,
    np.int32,
    np.int64,
    np.uint8,
    np.float16,
    np.float32,
    np.float64,
    np.bool_,
]

Files = dict[str, bytes]
Random = np.random.Generator


def make_models(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Train and save a small model of each kind."""
    raw_path = str(folder / "iris.csv")
    onboard(source="sklearn:iris", path=raw_path)
    raw = TabularDataset.from_csv(raw_path, target_column="target")
    data = Preprocessor().fit(raw).transform(raw)
    made = {}
    for name in names:
        model: BaseModel = ModelRegistry.get(f"{name.split()[0]}_classifier")(**SETTINGS[name])
        path = folder / name.replace(" ", "_")
        fit: dict[str, Any] = {"max_epochs": 2} if "layer_dims" in SETTINGS[name] else {}
        model.train(
            experiment_name="x",
            train_data=data,
            model_path=str(path),
            tracking=False,
            seed=0,
            progress=False,
            **fit,
        )
        made[name] = path
    return made


# ---- changes


def _bytes(content: bytes, draw: Random) -> bytes:
    changed = bytearray(content)
    way = draw.integers(5)
    for _ in range(int(draw.integers(1, 5))):
        if not changed:
            return b"\x00"
        place = int(draw.integers(len(changed)))
        if way == 0:
            changed[place] ^= 1 << int(draw.integers(8))
        elif way == 1:
            changed[place : place + 8] = draw.bytes(int(draw.integers(1, 9)))
        elif way == 2:
            del changed[place:]
        elif way == 3:
            length = int(draw.integers(1, 200))
            changed[place:place] = changed[place : place + length]
        else:
            changed += draw.bytes(int(draw.integers(1, 100)))
    return bytes(changed)


def _leaves(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """List each place of a JSON value, as its container and its key."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        found.append((value, key))
        if isinstance(inner, dict | list):
            _leaves(inner, found)
    return found


def _change_value(value: Any, draw: Random) -> Any:
    value = copy.deepcopy(value)
    for _ in range(int(draw.integers(1, 4))):
        places = _leaves(value, [])
        if not places:
            return HOSTILE[int(draw.integers(len(HOSTILE)))]
        container, key = places[int(draw.integers(len(places)))]
        other, other_key = places[int(draw.integers(len(places)))]
        hostile = copy.deepcopy(HOSTILE[int(draw.integers(len(HOSTILE)))])
        way = draw.integers(5)
        if way == 0:
            del container[key]
        elif way == 1:
            container[key] = copy.deepcopy(other[other_key])
        elif way == 2 and isinstance(container, dict):
            container[hostile if isinstance(hostile, str) else "more"] = container.pop(key)
        else:
            container[key] = hostile
    return value


def _json(content: bytes, draw: Random) -> bytes:
    if draw.random() < 0.2:
        return _bytes(content, draw)
    value = _change_value(json.loads(content), draw)
    text = json.dumps(value)
    if draw.random() < 0.15:
        raw = RAW_VALUES[int(draw.integers(len(RAW_VALUES)))]
        text = json.dumps(_change_value(value, draw)).replace("null", raw).replace("true", raw)
    if draw.random() < 0.05:
        # A key twice.
        text = text[:1] + text[1:].split(",", 1)[0] + "," + text[1:]
    return text.encode("utf-8", "surrogatepass")


def _array(array: np.ndarray, draw: Random) -> np.ndarray:
    way = draw.integers(7)
    if way == 0 and array.dtype.names is None:
        return array.astype(KINDS[int(draw.integers(len(KINDS)))])
    if way == 1 and array.ndim:
        return array[: int(draw.integers(len(array) + 1))]
    if way == 2 and array.ndim:
        return np.concatenate([array, array])
    if way == 3:
        return array.reshape(1, *array.shape)
    if array.size and array.dtype.names is None:
        flat = array.copy().reshape(-1)
        spots = draw.integers(flat.size, size=int(draw.integers(1, 6)))
        if way == 4:
            flat[spots] = flat[draw.integers(flat.size, size=len(spots))]
        else:
            flat[spots] = np.array(EXTREMES[int(draw.integers(len(EXTREMES)))]).astype(array.dtype)
        return flat.reshape(array.shape)
    if array.size and array.dtype.names is not None:
        # The nodes of a tree.
        changed = array.copy()
        names = array.dtype.names
        for _ in range(int(draw.integers(1, 4))):
            field = changed[names[int(draw.integers(len(names)))]].reshape(-1)
            value = np.array(EXTREMES[int(draw.integers(len(EXTREMES)))])
            field[int(draw.integers(field.size))] = value.astype(field.dtype)
        return changed
    return array


def _tensors(content: bytes, draw: Random) -> bytes:
    if draw.random() < 0.2:
        return _bytes(content, draw)
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    if draw.random() < 0.3:
        text = json.dumps(_change_value(header, draw)).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + body
    from safetensors.numpy import load, save

    tensors = load(content)
    for _ in range(int(draw.integers(1, 4))):
        name = str(draw.choice(sorted(tensors)))
        if draw.random() < 0.1 and len(tensors) > 1:
            del tensors[name]
        else:
            tensors[name] = np.ascontiguousarray(_array(tensors[name], draw))
    return bytes(save(tensors))


def _skops(content: bytes, draw: Random) -> bytes:
    if draw.random() < 0.1:
        return _bytes(content, draw)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if draw.random() < 0.4:
        parts["schema.json"] = _json(parts["schema.json"], draw)
    else:
        arrays = [name for name in parts if name.endswith(".npy")]
        for _ in range(int(draw.integers(1, 3))):
            name = arrays[int(draw.integers(len(arrays)))]
            changed = io.BytesIO()
            array = np.load(io.BytesIO(parts[name]), allow_pickle=False)
            np.save(changed, _array(array, draw), allow_pickle=False)
            parts[name] = changed.getvalue()
    compression = zipfile.ZIP_DEFLATED if draw.random() < 0.05 else zipfile.ZIP_STORED
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return made.getvalue()


def _change(files: Files, draw: Random, *, closed: bool) -> str:
    """Change a file; returns its name."""
    names = sorted(name for name in files if not (closed and name in _CLOSED))
    # The weights are what there is most to be done with.
    weights = [name for name in names if not name.endswith(".json")]
    name = str(draw.choice(weights if weights and draw.random() < 0.5 else names))
    kinds: dict[str, Callable[[bytes, Random], bytes]] = {
        ".json": _json,
        ".safetensors": _tensors,
        ".skops": _skops,
    }
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change = kinds.get(Path(name).suffix, _bytes)
        files[name] = (change if files[name] else _bytes)(files[name], draw)
    return name


def _put(directory: Path, files: Files, manifest: bytes, draw: Random | None) -> None:
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    (directory / artifacts.MANIFEST).write_bytes(manifest)
    if draw is None:
        return
    # The directory itself.
    name = str(draw.choice(sorted(files)))
    way = draw.integers(6)
    if way == 0:
        (directory / name).unlink()
    elif way == 1:
        (directory / "more.bin").write_bytes(b"x")
    elif way == 2:
        (directory / name).unlink()
        (directory / name).symlink_to("/etc/passwd")
    elif way == 3:
        (directory / name).unlink()
        os.mkfifo(directory / name)
    elif way == 4:
        (directory / name).unlink()
        (directory / name).mkdir()
    else:
        (directory / artifacts.MANIFEST).write_bytes(_json(manifest, draw))


# ---- a process that tries them


def _try(source: Files, manifest: bytes, place: Path, seed: int) -> str:
    """Make a changed model and load it; says what came of it."""
    draw = np.random.default_rng(seed)
    files = dict(source)
    shutil.rmtree(place, ignore_errors=True)
    way = draw.random()
    if way < 0.5:
        _change(files, draw, closed=True)

        def write(directory: Path) -> None:
            for name, content in files.items():
                (directory / name).write_bytes(content)

        artifacts.write_model_directory(place, write)
        same, sealed = files == source, True
    elif way < 0.9:
        _change(files, draw, closed=False)
        _put(place, files, manifest, None)
        same, sealed = files == source, False
    else:
        _put(place, files, manifest, draw)
        same = (place / artifacts.MANIFEST).is_file() and _same(place, source)
        sealed = False
    outcomes = {_load(place, load) for load in (_by_registry, _by_server)}
    bad = outcomes & set(_WRONG)
    if bad:
        return min(bad)
    if not sealed and not same and outcomes != {"refused"}:
        return "accepted"
    return "refused" if "refused" in outcomes else "loaded"


def _same(place: Path, source: Files) -> bool:
    """Whether a directory says the same as before, whatever the form of its manifest."""
    try:
        files = {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()}
        manifest = json.loads(files.pop(artifacts.MANIFEST))
    except (OSError, ValueError):
        return False
    return files == source and isinstance(manifest, dict) and len(files) == len(source)


def _by_registry(place: Path) -> np.ndarray:
    model = ModelRegistry.load(str(place))
    return model.answer(np.zeros((3, model._check_fitted())))


def _by_server(place: Path) -> np.ndarray:
    inference = Inference.load(str(place))
    return inference.probabilities(inference.signature.probe_rows())


def _load(place: Path, load: Callable[[Path], np.ndarray]) -> str:
    _seen.clear()
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers = load(place)
    except ProjectError as error:
        outcome = "failed" if "\n" in str(error) or len(str(error)) > 2_000 else "refused"
    except Exception:
        logging.getLogger(__name__).debug("failed", exc_info=True)
        return "failed"
    else:
        good = answers.ndim == 2 and np.isfinite(answers).all()
        outcome = "loaded" if good else "answered"
    if set(_seen) - _usual:
        logging.getLogger(__name__).debug("executed: %s", ", ".join(_seen))
        return "executed"
    return outcome


_seen: list[str] = []
# What an unchanged model does as well, such as asking a driver for devices.
_usual: set[str] = set()
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn")
_CONNECTS = ("socket.connect", "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen")


def watch(own: str, seen: list[str]) -> None:
    """Note whatever a file has no business to do in this process, from here on.

    Args:
        own: The folder in which files may be written.
        seen: Takes the notes.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith((*_RUNS, *_CONNECTS)):
            seen.append(f"{event} {arguments[:1]}")
        elif event == "open" and isinstance(arguments[0], str):
            mode, flags = arguments[1], arguments[2]
            writes = any(c in str(mode or "") for c in "wax+") or bool(
                (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            )
            inside = arguments[0].startswith(own) or arguments[0].endswith(".pyc")
            inside = inside or ".pyc." in arguments[0] or arguments[0] == os.devnull
            if (writes and not inside) or arguments[0] in ("/etc/passwd", "/dev/zero"):
                seen.append(f"open {arguments[0]}")

    sys.addaudithook(hook)


def _work(
    source: Path, folder: str, seeds: range, reached: Any, outcomes: Any, verbose: bool
) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    logging.basicConfig(level=logging.DEBUG if verbose else logging.CRITICAL, stream=sys.stderr)
    logging.disable(logging.NOTSET if verbose else logging.CRITICAL)
    content = {file.name: file.read_bytes() for file in source.iterdir()}
    manifest = content.pop(artifacts.MANIFEST)
    watch(folder, _seen)
    for _ in range(2):
        # What is imported late is no doing of the changed models.
        _by_registry(source)
        _by_server(source)
        _usual.update(_seen)
    place = Path(folder) / "model"
    for seed in seeds:
        reached.value = seed
        signal.alarm(_HANG_SECONDS)
        outcome = _try(content, manifest, place, seed)
        signal.alarm(0)
        outcomes.send((seed, outcome))


def attack(
    source: Path, first: int, last: int, *, verbose: bool = False
) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Load changed copies of a model.

    Args:
        source: Its directory.
        first: The first seed; each is a change of its own.
        last: The seed after the last.
        verbose: Tell the errors that were no refusals.

    Returns:
        How often each outcome was seen, and the seeds of those that must not be.
    """
    counts: Counter[str] = Counter()
    wrong: list[tuple[int, str]] = []
    context = multiprocessing.get_context("fork")
    next_seed = first
    while next_seed < last:
        reached = context.Value("q", next_seed)
        receiver, sender = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory() as folder:
            process = context.Process(
                target=_work,
                args=(source, folder, range(next_seed, last), reached, sender, verbose),
            )
            process.start()
            sender.close()
            with contextlib.suppress(EOFError):
                while True:
                    seed, outcome = receiver.recv()
                    counts[outcome] += 1
                    if outcome in _WRONG:
                        wrong.append((seed, outcome))
            process.join()
        if process.exitcode == 0 or sum(counts.values()) == last - first:
            # How it ends after its last change is no matter of the models.
            break
        outcome = "hung" if process.exitcode == -signal.SIGALRM else "crashed"
        counts[outcome] += 1
        wrong.append((reached.value, outcome))
        next_seed = reached.value + 1
    return counts, wrong


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=1_000, help="of all kinds together")
    parser.add_argument("--models", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    # A process that is forked where OpenMP has threads waits for them for ever. It is read when
    # scikit-learn is imported.
    os.environ["OMP_NUM_THREADS"] = "1"
    total: Counter[str] = Counter()
    each = math.ceil(options.mutations / len(options.models))
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in make_models(Path(scratch), options.models).items():
            counts, wrong = attack(
                path, options.first, options.first + each, verbose=options.verbose
            )
            total += counts
            print(f"{name}: {_text(counts)}", flush=True)
            for seed, outcome in wrong[:10]:
                print(f"  {outcome}: --models '{name}' --first {seed} --mutations 1", flush=True)
    print(f"{sum(total.values())} changed models: {_text(total)}")
    return int(any(total[outcome] for outcome in _WRONG))


def _text(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("refused", "loaded", *_WRONG))


if __name__ == "__main__":
    sys.exit(main())
