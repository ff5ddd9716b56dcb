"""Create ``.venv`` and restart inside it. Only the standard library: nothing else is installed yet."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devstack.terminal import DevstackError, info

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("VENV") or ROOT / ".venv").absolute()
LOCK = ROOT / "requirements-dev.lock"
_INSTALL_LIMIT_SECONDS = 900
_LOCK_LIMIT_SECONDS = 900


def enter_venv(arguments: list[str]) -> None:
    """Return if this process runs in the project's environment; otherwise create it and restart inside it."""
    if sys.version_info < (3, 11):
        raise DevstackError(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; set PYTHON=python3.x")
    if not _is_current():
        with file_lock(VENV.parent / f".{VENV.name.lstrip('.')}.lock", _LOCK_LIMIT_SECONDS):
            if not _is_current():  # another process may have installed it meanwhile
                _install()
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    python = VENV / "bin" / "python"
    os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.chdir(ROOT)
    os.execv(python, [str(python), "-m", "devstack", *arguments])


@contextmanager
def file_lock(path: Path, limit_seconds: float) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; the kernel releases the lock of a process that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + limit_seconds
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DevstackError(f"another process holds {path} for over {limit_seconds:.0f} s") from None
                time.sleep(0.1)
        yield


def _fingerprint() -> str:
    """Return a hash of the lock file and the environment's path; another one means a new installation."""
    parts = [str(VENV).encode(), b"compiled", LOCK.read_bytes()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _stamp() -> Path:
    return VENV / ".installed"


def _is_current() -> bool:
    usable = os.access(VENV / "bin" / "python", os.X_OK)
    return usable and _stamp().is_file() and _stamp().read_text() == _fingerprint()


def _install() -> None:
    info(f"installing the Python packages into {VENV}")
    bin_folder = VENV / "bin"
    uv = shutil.which("uv") or shutil.which("uv", path=str(bin_folder))
    if not os.access(bin_folder / "python", os.X_OK) or not (uv or (bin_folder / "pip").exists()):
        _make_venv(uv)
    python = str(bin_folder / "python")
    wanted = ["-q", "--require-hashes", "-r", str(LOCK)]
    uv = uv or _fetch_uv(python)
    # uv reads neither pip's configuration nor PIP_*: behind a mirror only pip may reach the packages.
    # Compile now, as pip does: where PYTHONDONTWRITEBYTECODE is set, every role would compile at every start.
    if not (uv and _run([uv, "pip", "install", "--compile-bytecode", "--python", python, *wanted])):
        info("installing with pip instead of uv")
        if not (bin_folder / "pip").exists():
            _make_venv(uv=None)
        if not _run([python, "-m", "pip", "install", "--disable-pip-version-check", *wanted]):
            raise DevstackError("the Python packages could not be installed; see the message of pip above")
    _stamp().write_text(_fingerprint())


def _make_venv(uv: str | None) -> None:
    """Create the environment. Debian's python3 has no ensurepip without python3-venv; uv does not need it."""
    if uv and _run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(VENV)]):
        return
    if not _run([sys.executable, "-m", "venv", "--clear", str(VENV)]):
        raise DevstackError("python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv")


def _fetch_uv(python: str) -> str | None:
    """Install uv into the environment; return None if the index has no wheel for this machine."""
    alone = VENV / "uv.lock"
    alone.write_text(locked("uv"))
    arguments = ["-q", "--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes", "-r", str(alone)]
    found = _run([python, "-m", "pip", "install", *arguments])
    return str(VENV / "bin" / "uv") if found else None


def locked(package: str) -> str:
    """Return the lines of one package in the lock file: its version and the hashes of its files."""
    found = re.search(rf"^{re.escape(package)}==.*(?:\n    .*)*", LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise DevstackError(f"{LOCK} has no entry for {package}; write it again with `make lock`")
    return found[0] + "\n"


def _run(command: list[str]) -> bool:
    # Let uv trust the system's certificate authorities, as pip does: a company's proxy may have its own.
    env = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"} | os.environ
    try:
        return subprocess.run(command, check=False, cwd=ROOT, env=env, timeout=_INSTALL_LIMIT_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        info(f"{command[0]}: {error}")
        return False
