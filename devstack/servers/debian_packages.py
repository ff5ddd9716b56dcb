"""Unpack programs from the Debian or Ubuntu archive into a folder, without root and without installing them."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devstack.bootstrap import file_lock
from devstack.terminal import DevstackError, info
from devstack.waiting import run_step

_LIMIT_SECONDS = 600
_LOCK_LIMIT_SECONDS = 900
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin")
"""Folders in which servers are installed; the PATH of an ordinary user does not contain them."""


def _nothing(_root: Path) -> None:
    """Leave the unpacked files as they are."""


@dataclass(frozen=True)
class Package:
    """A package of the archive, and the dependencies that are unpacked with it."""

    name: str
    wanted: str
    """A regular expression of package names; it does not match libraries of every base system."""
    size: str
    remedy: str
    """Advice for the user if the package can be neither found nor downloaded."""
    finish: Callable[[Path], None] = _nothing


def _make_relocatable(root: Path) -> None:
    """Make Erlang find its files by its own path: Debian's start scripts contain the path /usr/lib/erlang."""
    found_at_run_time = 'ROOTDIR="$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)"'
    for name in ("erl", "start"):
        script = root / "usr" / "lib" / "erlang" / "bin" / name
        if script.exists():
            text = script.read_text().replace("ROOTDIR=/usr/lib/erlang", found_at_run_time)
            mode = script.stat().st_mode
            script.write_text(text)
            os.chmod(script, mode)


RABBITMQ = Package(
    "rabbitmq-server",
    # erlang-base-hipe is an alternative of erlang-base; both cannot be unpacked into one folder.
    wanted=r"erlang-(?!base-hipe)[a-z0-9-]+|rabbitmq-server|socat",
    size="40 MB",
    remedy=(
        "set RABBITMQ_URL (and RABBITMQ_MANAGEMENT_URL) to another broker, or install RabbitMQ 3.10 or newer"
        " (apt-get install rabbitmq-server, dnf install rabbitmq-server, brew install rabbitmq), or start on Debian or"
        " Ubuntu, where `make run` unpacks it into DEV_CACHE"
    ),
    finish=_make_relocatable,
)


def _server(name: str, libraries: str) -> Package:
    return Package(
        name,
        wanted=rf"{name}(-core)?|{libraries}|libssl3(t64)?|libsystemd0|libpcre2?-?[a-z0-9-]*|libcrypt1|libpam0g",
        size="5 MB",
        remedy=f"install {name} (apt-get install {name})",
    )


PROGRAMS = {
    package.name: package
    for package in (
        _server("nginx", "zlib1g"),
        _server("haproxy", r"liblua5\.[0-9]-0|libopentracing[a-z0-9-]*"),
        _server("pgbouncer", r"libc-ares2|libevent-2[a-z0-9.-]*"),
    )
}
"""Servers that run in front of the gateway or PostgreSQL in production, for the tests."""


def program(cache: Path, env: dict[str, str], name: str) -> Path:
    """Return the executable of one of `PROGRAMS`: the installed one, or else one unpacked below `cache`.

    Raises:
        DevstackError: it is not installed, and there is no archive to download it from.
    """
    path = os.pathsep.join((env.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
    found = shutil.which(name, path=path)
    return Path(found) if found else with_its_libraries(unpacked(cache, env, PROGRAMS[name]), name)


def with_its_libraries(root: Path, name: str) -> Path:
    """Write a script that starts an unpacked program with its unpacked libraries; return its path."""
    libraries = ":".join(str(folder) for folder in sorted(root.glob("**/*-linux-gnu*")) if folder.is_dir())
    script = root / name
    if not script.exists():
        fresh = script.with_name(f"{name}.{os.getpid()}")
        fresh.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{root}/usr/sbin/{name}" "$@"\n')
        fresh.chmod(0o755)
        fresh.replace(script)
    return script


def folder(cache: Path, package: Package) -> Path:
    """Return the folder into which a package is unpacked."""
    return cache / package.name.removesuffix("-server")


def unpacked(cache: Path, env: dict[str, str], package: Package = RABBITMQ) -> Path:
    """Return the root folder of an unpacked package; download the package if the folder is missing.

    Several stacks share it. It is renamed to its final name once it is complete, so that an interrupted download leaves
    no incomplete folder under that name.

    Raises:
        DevstackError: there is no archive to download it from; the message says what to do instead.
    """
    root = folder(cache, package)
    if root.is_dir():
        return root
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise DevstackError(f"{package.name} is not installed, and apt-get is missing: {package.remedy}")
    with file_lock(cache / "lock", _LOCK_LIMIT_SECONDS):
        if not root.is_dir():
            _fetch(cache, root, env, package)
    return root


def _fetch(cache: Path, root: Path, env: dict[str, str], package: Package) -> None:
    info(f"downloading {package.name} (about {package.size}), unpacking it into {root}; nothing is installed")
    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("lists/partial", "cache/archives/partial", "packages", "root"):
        (work / folder).mkdir(parents=True)
    options = _private_apt(work)
    log = cache / "apt.log"
    try:
        # Some sources of the machine may be unreachable; the download below fails if it needs them.
        _apt("apt-get update", ["apt-get", *options, "update"], env, log)
    except DevstackError as error:
        info(f"{error}\n    continuing with the present package lists")
    names = _names(options, env, package)
    download = ["sh", "-c", 'cd "$0" && exec apt-get "$@"', str(work / "packages"), *options, "download", *names]
    try:
        _apt("apt-get download", download, env, log)
    except DevstackError as error:
        raise DevstackError(f"{package.name} could not be downloaded: {error}\n{package.remedy}") from error
    for archive in sorted((work / "packages").glob("*.deb")):
        _apt("dpkg-deb", ["dpkg-deb", "-x", str(archive), str(work / "root")], env, log)
    package.finish(work / "root")
    (work / "root").replace(root)
    shutil.rmtree(work, ignore_errors=True)


def _private_apt(work: Path) -> list[str]:
    """Return options that give apt separate lists and caches, so that it needs neither root nor the system's lock."""
    return [
        "-qq",
        "-o", f"Dir::State::lists={work}/lists",
        "-o", f"Dir::Cache={work}/cache",
        "-o", "Debug::NoLocking=1",
        "-o", "APT::Sandbox::User=",
        "-o", "Acquire::Languages=none",
        "-o", "Acquire::Retries=3",
        "-o", "Acquire::http::Timeout=30",
    ]  # fmt: skip


def _apt(what: str, command: list[str], env: dict[str, str], log: Path) -> None:
    run_step(what, command, {**env, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}, log, _LIMIT_SECONDS)


def _names(options: list[str], env: dict[str, str], package: Package) -> list[str]:
    """Return the names of `package` and of its dependencies, without libraries of the base system."""
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    command = ["apt-cache", *options[1:], "depends", "--recurse", *(f"--no-{kind}" for kind in kinds), package.name]
    found = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=_LIMIT_SECONDS)
    wanted = re.compile(package.wanted)
    names = sorted({line for line in found.stdout.splitlines() if wanted.fullmatch(line)})
    if package.name not in names:
        raise DevstackError(f"the package sources have no {package.name}: {package.remedy}\n{found.stderr}")
    return names
