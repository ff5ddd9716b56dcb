"""What is done to the unpacked packages."""

import subprocess
from pathlib import Path

from devstack import unpack


def test_erlang_finds_itself_wherever_it_was_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "lib" / "erlang" / "bin"
    folder.mkdir(parents=True)
    script = folder / "erl"
    script.write_text('#!/bin/sh\nif true\nthen\n    ROOTDIR=/usr/lib/erlang\nfi\necho "$ROOTDIR"\n')
    script.chmod(0o755)
    unpack._make_relocatable(tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved with a space"))
    command = [str(moved / "usr/lib/erlang/bin/erl")]
    assert subprocess.check_output(command, text=True).strip() == str(moved / "usr" / "lib" / "erlang")
