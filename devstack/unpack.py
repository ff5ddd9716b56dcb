"""RabbitMQ and Erlang from the Debian or Ubuntu archive, unpacked into a folder: no root, nothing installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from devstack.bootstrap import file_lock
from devstack.console import DevstackError, say
from devstack.waiting import run_step

_LIMIT_SECONDS = 600
_LOCK_LIMIT_SECONDS = 900
_WANTED = re.compile(r"^(erlang-(?!base-hipe)[a-z0-9-]+|rabbitmq-server|socat)$")
"""erlang-base-hipe is an alternative of erlang-base; both cannot be unpacked into one folder."""
CHOICES = (
    "either set RABBITMQ_URL (and RABBITMQ_MANAGEMENT_URL) to a broker of yours, or install RabbitMQ 3.10 or newer"
    " (apt-get install rabbitmq-server, dnf install rabbitmq-server, brew install rabbitmq), or start on Debian or"
    " Ubuntu, where it is unpacked below DEV_CACHE without being installed"
)


def unpacked(cache: Path, env: dict[str, str]) -> Path:
    """Return the root folder of the unpacked packages; download them when they are not there yet.

    Several stacks share it. It appears under its name in one step when it is complete, so that a start that is
    interrupted leaves nothing that looks finished.
    """
    root = cache / "rabbitmq"
    if root.is_dir():
        return root
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise DevstackError(f"no RabbitMQ found and no apt-get to fetch it with: {CHOICES}")
    with file_lock(cache / "lock", _LOCK_LIMIT_SECONDS):
        if not root.is_dir():
            _fetch(cache, root, env)
    return root


def _fetch(cache: Path, root: Path, env: dict[str, str]) -> None:
    say(f"fetching RabbitMQ and Erlang (about 40 MB), unpacked into {root}; the system is left alone")
    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("lists/partial", "cache/archives/partial", "packages", "root"):
        (work / folder).mkdir(parents=True)
    options = _private_apt(work)
    log = cache / "apt.log"
    try:
        # Foreign sources of the machine may be unreachable; the download below decides.
        _apt("apt-get update", ["apt-get", *options, "update"], env, log)
    except DevstackError as error:
        say(f"{error}\n    going on with the package lists that there are")
    packages = _packages(options, env)
    download = ["sh", "-c", 'cd "$0" && exec apt-get "$@"', str(work / "packages"), *options, "download", *packages]
    try:
        _apt("apt-get download", download, env, log)
    except DevstackError as error:
        raise DevstackError(f"RabbitMQ could not be downloaded: {error}\n{CHOICES}") from error
    for package in sorted((work / "packages").glob("*.deb")):
        _apt("dpkg-deb", ["dpkg-deb", "-x", str(package), str(work / "root")], env, log)
    _make_relocatable(work / "root")
    (work / "root").replace(root)
    shutil.rmtree(work, ignore_errors=True)


def _private_apt(work: Path) -> list[str]:
    """Return options that keep apt to lists and caches of its own: no lock of the system's, no root."""
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


def _packages(options: list[str], env: dict[str, str]) -> list[str]:
    """Return rabbitmq-server and what it needs of Erlang; libraries of the base system are there already."""
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    command = ["apt-cache", *options[1:], "depends", "--recurse", *(f"--no-{kind}" for kind in kinds)]
    answer = subprocess.run(
        [*command, "rabbitmq-server"], check=False, env=env, capture_output=True, text=True, timeout=_LIMIT_SECONDS
    )
    packages = sorted({line for line in answer.stdout.splitlines() if _WANTED.match(line)})
    if "rabbitmq-server" not in packages:
        raise DevstackError(f"this machine's package sources have no rabbitmq-server: {CHOICES}\n{answer.stderr}")
    return packages


def _make_relocatable(root: Path) -> None:
    """Let Erlang find itself from where it stands: Debian's start scripts have /usr/lib/erlang written into them."""
    found_at_run_time = 'ROOTDIR="$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)"'
    for name in ("erl", "start"):
        script = root / "usr" / "lib" / "erlang" / "bin" / name
        if script.exists():
            text = script.read_text().replace("ROOTDIR=/usr/lib/erlang", found_at_run_time)
            mode = script.stat().st_mode
            script.write_text(text)
            os.chmod(script, mode)
