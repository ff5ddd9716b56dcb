"""Programs that are unpacked from Debian packages."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from devstack.servers import debian_packages
from devstack.settings import layout
from devstack.terminal import DevstackError


def test_erlang_runs_from_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "lib" / "erlang" / "bin"
    folder.mkdir(parents=True)
    script = folder / "erl"
    script.write_text('#!/bin/sh\nif true\nthen\n    ROOTDIR=/usr/lib/erlang\nfi\necho "$ROOTDIR"\n')
    script.chmod(0o755)
    debian_packages.RABBITMQ.finish(tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved with a space"))
    command = [str(moved / "usr/lib/erlang/bin/erl")]
    assert subprocess.check_output(command, text=True).strip() == str(moved / "usr" / "lib" / "erlang")


def test_an_installed_program_is_used(tmp_path: Path) -> None:
    installed = tmp_path / "nginx"
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert debian_packages.program(tmp_path / "cache", env, "nginx") == installed


@pytest.mark.skipif(not shutil.which("apt-get"), reason="there is no Debian or Ubuntu archive on this machine")
@pytest.mark.parametrize("name", debian_packages.PROGRAMS)
def test_an_unpacked_program_starts_without_being_installed(name: str) -> None:
    root = debian_packages.unpacked(layout().cache, dict(os.environ), debian_packages.PROGRAMS[name])
    version = {"nginx": "-v", "haproxy": "-v", "pgbouncer": "--version"}[name]
    command = [str(debian_packages.with_its_libraries(root, name)), version]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    assert name in (answer.stdout + answer.stderr).lower()


def test_the_error_about_a_missing_program_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DevstackError, match="apt-get install haproxy"):
        debian_packages.unpacked(tmp_path, {"PATH": str(tmp_path)}, debian_packages.PROGRAMS["haproxy"])
