"""The commands of ``python -m devstack``."""

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from devstack import processes, secretfile, services, waiting
from devstack.bootstrap import file_lock
from devstack.console import DevstackError, say, write
from devstack.settings import Layout, environment, layout
from devstack.waiting import StopRequested


def run(arguments: list[str]) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m devstack")
    parser.add_argument("command", choices=("install", "services"))
    chosen = parser.parse_args(arguments)
    waiting.listen_for_stop()
    try:
        return {"install": install, "services": serve}[chosen.command]()
    except StopRequested:
        return waiting.stop_status()


def install() -> int:
    """Nothing is left to do: coming here made the environment."""
    return 0


def serve() -> int:
    """PostgreSQL and RabbitMQ alone, in the foreground, with their URLs in $DEV_DIR/env."""
    stack, env = layout(), environment(dotenv=True)
    plan = services.Plan.read(env)
    with supervised(stack):
        services.refuse_taken_ports(services.needed_ports(stack, plan, {}))
        with services.running(stack, plan, env) as (endpoints, started):
            lines = [f"export {name}={shlex.quote(value)}" for name, value in endpoints.variables().items()]
            secretfile.write_private(stack.env_file, "\n".join(lines) + "\n")
            say(f"ready; in another terminal: . {stack.env_file}")
            write("\n".join(lines))
            try:
                while True:
                    waiting.pause(0.5)
                    for managed in started:
                        if not managed.alive():
                            raise DevstackError(f"{managed.name} ended unexpectedly, see {stack.logs}")
            finally:
                stack.env_file.unlink(missing_ok=True)


@contextmanager
def supervised(stack: Layout) -> Iterator[None]:
    """Be the only supervisor of this folder, without leftovers of the one before."""
    stack.prepare()
    try:
        with file_lock(stack.lock_file, limit_seconds=1):
            services.end_leftovers(stack)
            yield
            processes.kill_strays(stack)
    except BlockingIOError:
        raise
