"""Run code in separate processes, because a process reads its keys once."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 60


def run(code: str, folder: Path) -> "subprocess.Popen[str]":
    """Run Python code in a process whose keys are in `folder`."""
    environment = os.environ | {"KEYS_DIR": str(folder)}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def output(process: "subprocess.Popen[str]") -> str:
    """Return what a process printed; it must have succeeded."""
    out, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    return out.strip()
