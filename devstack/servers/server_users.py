"""The files of a server, and the user that it runs as if root starts the stack.

Started by an ordinary user, a server runs as that user and keeps its files in DEV_DIR. Started by root, it runs as a
dedicated user without capabilities, because programs that the server runs (``COPY … FROM PROGRAM``) inherit them. That
user cannot enter DEV_DIR (mode 0700, and perhaps below root's home), so its files are in a folder below DEV_SERVER_DIR,
and DEV_DIR contains a link to them.

The user is a uid without an account: no account is added to the system, and no existing one is used, because files of
``nobody`` or ``postgres`` may belong to other services, and processes of one uid can read each other's memory. The
server's folder is named after its uid, so two folders never share a uid.
"""

import contextlib
import json
import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from devstack.servers import private_files
from devstack.settings import Layout
from devstack.terminal import DevstackError, info

DEFAULT_FOLDER = "/var/lib/payment-gateway-devstack"
UIDS = range(60578, 61184)
"""A range that distributions and systemd do not use, and that exists in containers with 65 536 uids."""
_OWNER = "owner.json"
_LIMIT_SECONDS = 60
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ServerFolder:
    """The folders of one server, and its user."""

    folder: Path
    """Files that the server can read but not change."""
    data: Path
    """The server's own files."""
    uid: int | None
    """The server's uid and gid; None when it runs as the caller."""

    def command(self, command: list[str], *, by: int | None = None) -> list[str]:
        """Return the command that runs as the server's user, or as the user `by` with the server's group."""
        if self.uid is None:
            return command
        return [*_without_privileges(self.uid if by is None else by, self.uid), *command]

    def hand_over(self, path: Path, *, to: int, owned_by: Iterable[int]) -> None:
        """Change the owner of a folder and its content to a uid; only files that a uid in `owned_by` owns change.

        Thus a link that the server created to a file of root has no effect.
        """
        if self.uid is None:
            return
        users = set(owned_by)
        for parent, folders, files in os.walk(path):
            for name in (".", *folders, *files):
                entry = os.path.join(parent, name)
                if os.lstat(entry).st_uid in users:
                    os.chown(entry, to, self.uid, follow_symlinks=False)

    def write(self, name: str, text: str) -> Path:
        """Write a file that the server can read and only the caller can change; return its path."""
        path = self.folder / name
        private_files.write_private(path, text)
        if self.uid is not None:
            os.chown(path, 0, self.uid)
            os.chmod(path, 0o640)
        return path


def prepare(stack: Layout, name: str, older_owner: int) -> ServerFolder:
    """Return the folder of a server; create it if it is missing, and move data of an older version to it.

    Args:
        older_owner: the uid of the files that an older version, started by root, left in DEV_DIR.
    """
    link = stack.home / name
    if os.geteuid() != 0:
        if link.is_symlink():
            raise DevstackError(f"the data in {stack.home} belongs to root: start as root, or run `make clean` as root")
        return ServerFolder(stack.home, link, None)
    if link.is_dir() and not link.is_symlink() and link.stat().st_uid != older_owner:
        raise DevstackError(f"{link} belongs to another user: start as that user, or delete the data with `make clean`")
    home = _linked(stack, name) or _make(stack, name)
    _end_processes_of(int(home.folder.name))
    _take_older_data(stack, name, home)
    return home


def account_with_a_name() -> int:
    """Return the uid of an existing account, because initdb does not run under a uid without an account.

    It is used with the server's group and inside the server's folder, which its other processes cannot enter.
    """
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        raise DevstackError("this system has no account `nobody`; start as an ordinary user instead of root") from None


def delete_data(stack: Layout) -> None:
    """Delete all files of a stack, including the folders of its servers."""
    if os.geteuid() == 0:
        for place in _places(stack):
            _end_processes_of(int(place.name))
            shutil.rmtree(place)
    stack.delete_data()


def _linked(stack: Layout, name: str) -> ServerFolder | None:
    """Return the folder that DEV_DIR links to."""
    link = stack.home / name
    for place in _places(stack):
        if link.is_symlink() and os.readlink(link) == str(place / "data"):
            return ServerFolder(place, place / "data", int(place.name))
    return None


def _make(stack: Layout, name: str) -> ServerFolder:
    """Create a folder with an unused uid; remove the folder of a deleted DEV_DIR at the same path."""
    link = stack.home / name
    if link.is_symlink() and link.exists():
        data = os.readlink(link)
        raise DevstackError(
            f"{link} links to {data}, which is not in DEV_SERVER_DIR: set DEV_SERVER_DIR to the folder that contains it"
        )
    for place in _places(stack):
        if _record(place)["server"] == name:
            info(f"removing {place}, which belonged to an earlier {stack.home}")
            shutil.rmtree(place)
    place = _new_place(_base())
    uid = int(place.name)
    (place / _OWNER).write_text(json.dumps({"dev_dir": str(stack.home), "server": name}))
    os.chown(place, 0, uid)
    place.chmod(0o710)
    trial = subprocess.run(
        [*_without_privileges(uid, uid), "true"], check=False, capture_output=True, text=True, timeout=_LIMIT_SECONDS
    )
    if trial.returncode:
        shutil.rmtree(place)
        raise DevstackError(
            f"root cannot run a server as the unprivileged uid {uid} here ({trial.stderr.strip()}); start as an"
            " ordinary user, or set DATABASE_URL"
        )
    if link.is_dir() and not link.is_symlink():
        link.rename(_older(link))
    link.unlink(missing_ok=True)
    link.symlink_to(place / "data")
    return ServerFolder(place, place / "data", uid)


def _end_processes_of(uid: int) -> None:
    """Kill all processes of the server's uid, so that nothing changes while root works in the server's folder."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    while running := _processes_of(uid):
        if time.monotonic() > deadline:
            raise DevstackError(f"processes of uid {uid} do not end: {', '.join(str(found.pid) for found in running)}")
        for process in running:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_POLL_SECONDS)


def _processes_of(uid: int) -> list[psutil.Process]:
    """Return the running processes of a uid, without zombies."""
    found = []
    for process in psutil.process_iter(["uids", "status"]):
        uids = process.info["uids"]
        if uids and uids.real == uid and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _older(link: Path) -> Path:
    return link.with_name(f"{link.name}.old")


def _take_older_data(stack: Layout, name: str, home: ServerFolder) -> None:
    """Move the data that an older version kept in DEV_DIR; resume a move that was interrupted."""
    older = _older(stack.home / name)
    if not older.exists():
        return
    if not home.data.exists():
        info(f"moving the data of {name} to {home.data}")
        unfinished = home.data.with_name("data.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            older.rename(unfinished)
        except OSError:  # another file system
            shutil.copytree(older, unfinished, symlinks=True)
            for parent, folders, files in os.walk(older):
                for entry in (".", *folders, *files):
                    source = Path(parent, entry)
                    found = source.lstat()
                    os.chown(unfinished / source.relative_to(older), found.st_uid, -1, follow_symlinks=False)
        unfinished.rename(home.data)
    shutil.rmtree(older, ignore_errors=True)


def _base() -> Path:
    """Return DEV_SERVER_DIR; create it if it is missing, and refuse it if users other than root can change it."""
    base = Path(os.environ.get("DEV_SERVER_DIR") or DEFAULT_FOLDER).absolute()
    try:
        base.mkdir(mode=0o711, parents=True, exist_ok=True)
        found = base.lstat()
    except OSError as error:
        raise DevstackError(f"{base} cannot be created ({error}); set DEV_SERVER_DIR to another folder") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise DevstackError(f"{base} must be a folder that only root can change; set DEV_SERVER_DIR to another one")
    for folder in (base, *base.parents):
        if not folder.stat().st_mode & 0o001:
            raise DevstackError(
                f"{folder} is accessible to its owner only, so the servers cannot reach their data in {base};"
                " set DEV_SERVER_DIR to another folder"
            )
    return base


def _new_place(base: Path) -> Path:
    accounts = {account.pw_uid for account in pwd.getpwall()}
    running = {process.info["uids"].real for process in psutil.process_iter(["uids"]) if process.info["uids"]}
    for uid in UIDS:
        if uid not in accounts | running:
            try:
                (base / str(uid)).mkdir(mode=0o700)
            except FileExistsError:
                continue
            return base / str(uid)
    raise DevstackError(f"every uid of {UIDS.start} to {UIDS.stop - 1} is in use; remove folders of {base}")


def _places(stack: Layout) -> list[Path]:
    """Return the folders that were created for this DEV_DIR."""
    base = Path(os.environ.get("DEV_SERVER_DIR") or DEFAULT_FOLDER).absolute()
    names = [str(uid) for uid in UIDS]
    found = [base / name for name in names if (base / name).is_dir()]
    return [place for place in found if _record(place)["dev_dir"] == str(stack.home)]


def _record(place: Path) -> dict[str, str]:
    return {"dev_dir": "", "server": ""} | private_files.read_json(place / _OWNER)


def _without_privileges(uid: int, gid: int) -> list[str]:
    """Return a command prefix that drops capabilities and groups and prevents regaining them (setuid programs)."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise DevstackError(
            "root runs the servers as another user by setpriv, which is missing (package util-linux); install it, set"
            " DATABASE_URL, or start as an ordinary user"
        )
    none = [f"--{kind}=-all" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    return [setpriv, f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs", *none]


def is_readable(folder: Path) -> bool:
    """Return whether other users can reach a folder, read its files and run its programs."""
    if not all(parent.stat().st_mode & 0o001 for parent in folder.resolve().parents):
        return False
    for parent, _, files in os.walk(folder):
        if Path(parent).stat().st_mode & 0o005 != 0o005:
            return False
        for name in files:
            if not Path(parent, name).exists():  # a dangling link
                continue
            mode = Path(parent, name).stat().st_mode
            if not mode & 0o004 or (mode & 0o100 and not mode & 0o001):
                return False
    return True
