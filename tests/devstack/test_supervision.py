"""`python -m devstack services`, `stop` and `wait` as processes, with a real PostgreSQL but no broker."""

import signal

import psutil

from devstack.servers import postgres
from tests.devstack.started import LIMIT_SECONDS, Started


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_database_is_durable_and_listens_on_loopback_only(stack: Started) -> None:
    with stack.connect(postgres.SUPERUSER) as connection:
        names = ("fsync", "synchronous_commit", "listen_addresses", "unix_socket_directories", "max_connections")
        shown = {name: connection.execute(f"SHOW {name}").fetchone() for name in names}
    assert shown == {
        "fsync": ("on",),
        "synchronous_commit": ("on",),
        "listen_addresses": ("127.0.0.1",),
        "unix_socket_directories": ("",),
        "max_connections": ("200",),
    }


def test_sigint_stops_everything_and_data_survives_a_restart(stack: Started) -> None:
    stack.make_table()
    server = stack.server()
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(LIMIT_SECONDS) == 0, stack.log.read_text()
    assert has_ended(server)
    assert not stack.layout.env_file.exists()
    again = Started(stack.layout.home)
    try:
        again.wait_until_ready()
        again.expect_table()
    finally:
        again.process.terminate()
        assert again.process.wait(LIMIT_SECONDS) == 0


def test_stop_stops_the_processes_of_a_killed_supervisor(stack: Started) -> None:
    server = stack.server()
    stack.process.kill()
    stack.process.wait(LIMIT_SECONDS)
    assert not has_ended(server)
    assert stack.command("stop").returncode == 0
    assert has_ended(server)


def test_the_next_start_stops_the_processes_of_a_killed_supervisor(stack: Started) -> None:
    server = stack.server()
    stack.process.kill()
    stack.process.wait(LIMIT_SECONDS)
    stack.layout.env_file.unlink()
    again = Started(stack.layout.home)
    again.layout = stack.layout
    try:
        again.wait_until_ready()
        assert has_ended(server)
    finally:
        again.process.terminate()
        assert again.process.wait(LIMIT_SECONDS) == 0


def test_a_second_start_in_the_same_folder_is_refused(stack: Started) -> None:
    second = stack.command("services")
    assert second.returncode == 1
    assert "a stack already runs" in second.stderr
    assert not has_ended(stack.server())


def test_stop_lets_a_running_supervisor_stop_its_servers(stack: Started) -> None:
    server = stack.server()
    assert stack.command("stop").returncode == 0
    assert stack.process.wait(LIMIT_SECONDS) == 0
    assert has_ended(server)


def test_wait_fails_if_no_stack_is_up(stack: Started) -> None:
    waited = stack.command("wait")  # only servers run here: there is no stack.json
    assert waited.returncode == 1
    assert "no stack is up" in waited.stderr


def test_clean_deletes_the_data(stack: Started) -> None:
    assert stack.command("clean").returncode == 0
    assert not stack.layout.postgres_data.exists()
    assert not stack.layout.secrets_file.exists()
