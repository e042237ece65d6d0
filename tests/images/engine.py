"""Buildah and Podman with a storage of their own, and a base image made from Debian's packages.

No registry of images and no daemon is needed, so that it works in a virtual machine of continuous
integration too. It has to run as root on Debian or a system like it.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("buildah", "podman", "runc", "debootstrap")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# Buildah would ask for more than a machine may allow.
_LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")


class Container:
    """A container that runs in the background."""

    def __init__(self, engine: Engine, name: str, started: float) -> None:
        self.engine = engine
        self.name = name
        self.started = started

    @property
    def log(self) -> str:
        """What it has printed, errors too."""
        done = self.engine.podman("logs", self.name, check=False)
        return done.stdout + done.stderr

    @property
    def is_running(self) -> bool:
        return self._state("Running") is True

    def is_healthy(self) -> bool:
        """Run its HEALTHCHECK once."""
        return self.engine.podman("healthcheck", "run", self.name, check=False).returncode == 0

    def stop(self, seconds: int = 30) -> int:
        """Send the image's stop signal, SIGKILL after some seconds; gives the exit status."""
        self.engine.podman("stop", "--time", str(seconds), self.name)
        return int(self._state("ExitCode"))

    def _state(self, key: str) -> Any:
        shown = self.engine.podman("inspect", "--type", "container", self.name).stdout
        return json.loads(shown)[0]["State"][key]


class Engine:
    """Builds and runs images; all that it keeps is in one folder.

    Attributes:
        driver: How layers are stored: ``overlay`` where the kernel lets us, else ``vfs``, which
            copies them and is slow.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        self.driver = "overlay" if _can_overlay(folder) else "vfs"
        self._storage = [
            *("--root", str(folder / "storage"), "--runroot", str(folder / "run")),
            *("--storage-driver", self.driver),
        ]

    def buildah(self, *arguments: str) -> str:
        """Run Buildah; gives what it prints."""
        return self._run(["buildah", *self._storage, *arguments]).stdout

    def podman(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Podman."""
        options = ["--runtime", "runc", "--cgroup-manager", "cgroupfs"]
        return self._run(["podman", *self._storage, *options, *arguments], check=check)

    def make_base(self) -> str:
        """Make an image of Python from Debian's packages, which looks like Docker's own.

        It has the certificates of this machine, and knows the indexes of packages that pip and uv
        are told to use here.

        Returns:
            Its name.
        """
        root = self._folder / "base"
        suite = _release()["VERSION_CODENAME"]
        packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
        self._run(["debootstrap", "--variant=minbase", packages, suite, str(root)])
        for name in ("python", "python3"):
            (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
        [library] = [p for p in root.glob("usr/lib/python3.*") if p.is_dir()]
        (library / "EXTERNALLY-MANAGED").unlink(missing_ok=True)
        for left in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / left)
        own = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().openssl_cafile
        shutil.copyfile(own, root / _CERTIFICATES.lstrip("/"))

        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SSL_CERT_FILE": _CERTIFICATES,
            "PIP_CERT": _CERTIFICATES,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **{k: os.environ[k] for k in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX") if k in os.environ},
        }
        container = self.buildah("from", "scratch").strip()
        self.buildah("add", "--quiet", container, str(root), "/")
        settings = [word for k, v in environment.items() for word in ("--env", f"{k}={v}")]
        self.buildah("config", *settings, "--cmd", "python3", container)
        name = f"localhost/python:{library.name.removeprefix('python')}-slim"
        self.buildah("commit", "--quiet", "--rm", container, name)
        shutil.rmtree(root)
        return name

    def build(
        self,
        name: str,
        dockerfile: Path,
        context: Path,
        arguments: Mapping[str, str],
        folders: Mapping[str, str] | None = None,
    ) -> None:
        """Build an image.

        Args:
            name: What to call it.
            dockerfile: Its recipe.
            context: The folder that the recipe copies from.
            arguments: The arguments of the build.
            folders: Folders of this machine to show to the build, and where.
        """
        words = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        words += [f"--volume={here}:{there}:ro" for here, there in (folders or {}).items()]
        words += ["--format", "docker", "--isolation", "chroot", "--file", str(dockerfile)]
        self.buildah("build", *_LIMITS, *words, "--tag", name, str(context))

    def config(self, image: str) -> dict[str, Any]:
        """Give the settings of an image, by the names of Docker."""
        shown = self.podman("inspect", "--type", "image", image).stdout
        config: dict[str, Any] = json.loads(shown)[0]["Config"]
        return config

    def size(self, image: str) -> int:
        """Give the size of an image with all its layers, in bytes."""
        shown = self.podman("inspect", "--type", "image", image).stdout
        return int(json.loads(shown)[0]["Size"])

    def run(
        self, image: str, *arguments: str, options: tuple[str, ...] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run an image to its end, on the network of this machine."""
        words = ["--rm", "--network", "host", *_LIMITS, *options, image, *arguments]
        return self.podman("run", *words, check=check)

    @contextmanager
    def start(
        self, image: str, *arguments: str, options: tuple[str, ...] = ()
    ) -> Iterator[Container]:
        """Run an image in the background; it is removed with the block."""
        words = ["--network", "host", *_LIMITS, *options, image, *arguments]
        name = self.podman("create", *words).stdout.strip()
        try:
            started = time.perf_counter()
            self.podman("start", name)
            yield Container(self, name, started)
        finally:
            self.podman("rm", "--force", "--time", "5", name)

    def _run(self, command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        # In a scope of its own, away from registries and settings of the machine's user.
        environment = {**os.environ, "TMPDIR": str(self._temporary)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=1800
        )
        if check and done.returncode != 0:
            shown = (done.stdout + done.stderr)[-4_000:]
            raise AssertionError(f"{' '.join(command)} ends with {done.returncode}:\n{shown}")
        return done


@contextmanager
def open_engine() -> Iterator[Engine]:
    """Give an engine whose images, layers and caches are gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="images-"))
    engine = Engine(folder)
    try:
        yield engine
    finally:
        engine.podman("rm", "--all", "--force", "--time", "5", check=False)
        # Podman holds the mounts of its storage; without them the folder is like any other.
        engine.podman("umount", "--all", "--force", check=False)
        for mount in reversed(_mounts_below(folder)):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(folder)


def install_programs() -> None:
    """Install what is missing of the programs, as root on Debian."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([*apt, "update"], check=True, env=environment)
        install = [*apt, "install", "--yes", "--no-install-recommends"]
        subprocess.run([*install, *missing], check=True, env=environment, stdout=subprocess.DEVNULL)


def _can_overlay(folder: Path) -> bool:
    places = {name: folder / "try" / name for name in ("lower", "upper", "work", "merged")}
    for place in places.values():
        place.mkdir(parents=True)
    options = f"lowerdir={places['lower']},upperdir={places['upper']},workdir={places['work']}"
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(places["merged"])]
    can = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    if can:
        subprocess.run(["umount", str(places["merged"])], check=True)
    shutil.rmtree(folder / "try")
    return can


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1] for line in lines]
    return [point for point in points if Path(point).is_relative_to(folder)]


def _release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {k: v.strip('"') for k, _, v in (line.partition("=") for line in lines) if k}
