"""API processes that keep to a processor each."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

PROCESSORS = sorted(os.sched_getaffinity(0))
PATIENCE = 10.0
PROGRAM = r"""
import os, sys, threading
from gateway import affinity

affinity._CLAIM = "\0" + sys.argv[1]
if "forbidden" in sys.argv:
    def refuse(*_):
        raise PermissionError
    os.sched_setaffinity = refuse
stop = threading.Event()
threading.Thread(target=stop.wait, daemon=True).start()
kept = affinity.keep_to_one_processor(int(sys.argv[2]))
threading.Thread(target=stop.wait, daemon=True).start()
print(kept, sorted({n for task in os.listdir("/proc/self/task") for n in os.sched_getaffinity(int(task))}), flush=True)
sys.stdin.read()
"""
"""Says what it keeps to and where its threads may run, an older one and a younger one, until its input ends."""


class Processes:
    """Processes that know of each other's claims, and of no others."""

    def __init__(self) -> None:
        self._claim = f"test/{uuid.uuid4()}/{{}}"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, of: int, *further: str) -> str:
        """What a new one, one of so many, says."""
        command = [sys.executable, "-c", PROGRAM, self._claim, str(of), *further]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def kill(self, number: int) -> None:
        """End one as the kernel does that runs out of memory."""
        self.started[number].kill()
        self.started[number].wait(PATIENCE)


@pytest.fixture
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    for process in started.started:
        process.communicate(timeout=PATIENCE)


def test_each_keeps_to_a_processor_of_its_own_with_all_of_its_threads(processes: Processes) -> None:
    said = [processes.start(of=len(PROCESSORS)) for _ in PROCESSORS]
    assert said == [f"{number} [{number}]" for number in PROCESSORS]


def test_who_finds_every_processor_claimed_may_run_anywhere(processes: Processes) -> None:
    for _ in PROCESSORS:
        processes.start(of=len(PROCESSORS))
    assert processes.start(of=len(PROCESSORS)) == f"None {PROCESSORS}"


def test_fewer_processes_than_processors_may_run_anywhere(processes: Processes) -> None:
    assert processes.start(of=len(PROCESSORS) - 1) == f"None {PROCESSORS}"


def test_the_successor_of_one_that_died_keeps_to_its_processor(processes: Processes) -> None:
    said = [processes.start(of=len(PROCESSORS)) for _ in PROCESSORS]
    processes.kill(0)
    assert processes.start(of=len(PROCESSORS)) == said[0]


def test_where_it_is_forbidden_a_process_starts_all_the_same_and_claims_nothing(processes: Processes) -> None:
    assert processes.start(len(PROCESSORS), "forbidden") == f"None {PROCESSORS}"
    assert processes.start(len(PROCESSORS)) == f"{PROCESSORS[0]} [{PROCESSORS[0]}]"
