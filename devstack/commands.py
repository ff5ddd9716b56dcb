"""The commands of ``python -m devstack``."""

import shutil
import signal
from collections.abc import Callable

import psutil
import psycopg
import requests

from devstack import checks, health, processes, services, stackfile, supervisor, testing, waiting
from devstack.bootstrap import file_lock
from devstack.demo import Demo
from devstack.procfile import Follower
from devstack.servers import debian_packages, private_files, server_users
from devstack.settings import Layout, environment, layout
from devstack.supervisor import Stack
from devstack.terminal import DevstackError, info, print_error, print_line
from devstack.waiting import StopRequested

_STOP_LIMIT_SECONDS = 300.0
_WAIT_LIMIT_SECONDS = 300.0
_DEMO_LIMIT_SECONDS = 3.0
"""The demo payments that take longer are shown after the URLs."""
_TICK_SECONDS = 0.2


def run(arguments: list[str]) -> int:
    """Run one command and return the exit status."""
    name = arguments[0] if arguments else "help"
    if name not in COMMANDS and name not in WITH_ARGUMENTS:
        raise DevstackError(f"there is no command {name!r}; the commands are {', '.join((*COMMANDS, *WITH_ARGUMENTS))}")
    if len(arguments) > 1 and name not in WITH_ARGUMENTS:
        raise DevstackError(f"{name} takes no arguments; its settings are variables, see `make help`")
    waiting.listen_for_stop()
    try:
        if name in WITH_ARGUMENTS:
            return WITH_ARGUMENTS[name](arguments[1:])
        return COMMANDS[name]() or 0
    except StopRequested:
        info("stopped")
        return waiting.stop_status()
    except (requests.RequestException, psutil.Error, psycopg.Error) as error:
        print_error(f"{type(error).__name__}: {error}")
        return 1


def install() -> None:
    """Create the virtual environment; `enter_venv` has done it before this runs."""


def serve() -> None:
    """Run only PostgreSQL and RabbitMQ in the foreground; write their URLs to $DEV_DIR/env."""
    own, caller = layout(), environment(dotenv=True)
    plan = services.Plan.read(caller)
    with supervisor.supervised(own):
        services.refuse_taken_ports(services.needed_ports(own, plan, {}))
        with services.running(own, plan, caller) as (endpoints, units):
            services.wait_for_broker(own, endpoints, units)
            stackfile.write_env(own, endpoints)
            print_line(own.env_file.read_text().rstrip())
            info(f"ready; in another terminal: . {own.env_file}")
            try:
                while True:
                    health.refuse_ended(own, units)
                    waiting.pause(_TICK_SECONDS)
            finally:
                own.env_file.unlink(missing_ok=True)


def run_stack() -> None:
    """Run the whole gateway in the foreground, and send demo payments unless DEMO=0."""
    own, caller = layout(), environment(dotenv=True)
    plan = services.Plan.read(caller)
    with supervisor.supervised(own), supervisor.running(own, caller, plan) as stack:
        demo = None if caller.get("DEMO") == "0" else Demo(stackfile.api_url(own), stack.merchant)
        while demo and not demo.finished and demo.age < _DEMO_LIMIT_SECONDS:
            _tick(stack, demo)
        _print_summary(stack)
        roles = [unit.name for unit in stack.units if unit.name not in services.STOP_LAST]
        follower = Follower(own, [] if caller.get("LOGS") == "0" else roles)
        while True:
            _tick(stack, demo)
            follower.show()


def _tick(stack: Stack, demo: Demo | None) -> None:
    stack.watch(restart=stack.env.get("DEV_RESTART") == "1")
    if demo and not demo.finished:
        demo.step()
    waiting.pause(_TICK_SECONDS)


def _print_summary(stack: Stack) -> None:
    found = stack.publish()
    api, merchant, operator = found["api_url"], stack.merchant, stack.operator
    management = found["management"]
    token = (
        f"$(curl -s -u {merchant.client_id}:{merchant.client_secret} -d grant_type=client_credentials {api}/oauth/token"
        """ | python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])')"""
    )
    body = '{"amount": 12550, "currency": "USD", "payment_method": "tok_approve", "reference": "order-1001"}'
    payment = (
        f'curl -i {api}/v1/transactions -H "Authorization: Bearer {token}" -H "Content-Type: application/json"'
        f""" -H "Idempotency-Key: order-1001-$(date +%s)" -d '{body}'"""
    )
    url = found["management_url"]
    rabbitmq = f"{url}   {management['user']} / {management['password']}" if url else "that of RABBITMQ_URL"
    print_line(
        f"""
  API         {api}
  docs        {api}/docs
  Flower      {found["flower_url"]}   {found["flower"]["user"]} / {found["flower"]["password"]}
  RabbitMQ    {rabbitmq}
  merchant    {merchant.email} / {merchant.password}
              client {merchant.client_id} / {merchant.client_secret}
  operator    {operator.email} / {operator.password}
  all in      {stack.layout.stack_file}

To send a payment:
  {payment}

Ctrl-C stops everything.
"""
    )
    info("the gateway is up")


def wait() -> None:
    """Return when the stack is up; fail immediately if its supervisor ends meanwhile."""
    own = layout()
    limit = float(environment(dotenv=False).get("WAIT_SECONDS") or _WAIT_LIMIT_SECONDS)
    seen = False

    def up() -> bool:
        nonlocal seen
        lives = supervisor.is_supervised(own)
        if seen and not lives:
            raise DevstackError(f"the stack in {own.home} ended before it was up")
        seen = lives
        return lives and own.stack_file.exists()

    waiting.wait_until(up, limit, lambda: f"no stack is up in {own.home}")


def stop() -> None:
    """Stop the stack of this DEV_DIR, or the processes that a killed one left behind."""
    own = layout()
    if not own.home.is_dir():
        info(f"no stack was ever started in {own.home}")
        return
    _end_supervisor(own)
    with supervisor.supervised(own):
        info(f"no stack runs in {own.home}")


def _end_supervisor(own: Layout) -> None:
    if not supervisor.is_supervised(own):
        return
    process = _supervisor(own)
    if process is None:
        raise DevstackError(f"a process holds {own.lock_file}, but {own.supervisor_file} does not name it")
    info(f"stopping the supervisor {process.pid}")
    process.send_signal(signal.SIGTERM)
    waiting.wait_until(
        lambda: not supervisor.is_supervised(own), _STOP_LIMIT_SECONDS, lambda: f"{process.pid} does not stop"
    )


def _supervisor(own: Layout) -> psutil.Process | None:
    """Return the process in the supervisor's file, or None if that process has ended."""
    record = private_files.read_json(own.supervisor_file)
    try:
        process = psutil.Process(record["pid"])
        same = abs(process.create_time() - record["started"]) <= processes.CLOCK_TOLERANCE_SECONDS
    except (KeyError, psutil.Error):
        return None
    return process if same else None


def clean() -> None:
    """Stop, then delete all data, passwords, keys and logs, but not the downloaded RabbitMQ."""
    own = layout()
    if own.home.is_dir():
        stop()
        with file_lock(own.lock_file, limit_seconds=5):
            server_users.delete_data(own)
    else:
        server_users.delete_data(own)
    info(f"deleted the data in {own.home}")


def distclean() -> None:
    """Clean, and delete the downloaded servers; make deletes .venv."""
    clean()
    cache = layout().cache
    for package in (debian_packages.RABBITMQ, *debian_packages.PROGRAMS.values()):
        shutil.rmtree(debian_packages.folder(cache, package), ignore_errors=True)


def bench() -> int:
    """Compare the gateway with a plain Celery pipeline; print a table of both and their ratios."""
    from bench import comparison  # its imports are needed by no other command

    return comparison.main()


def docs() -> None:
    """Generate the pages of docs/ that come from the code."""
    from devstack import docs as pages  # imports the gateway, which no other command needs

    pages.write()


COMMANDS: dict[str, Callable[[], int | None]] = {
    "run": run_stack,
    "stop": stop,
    "wait": wait,
    "clean": clean,
    "distclean": distclean,
    "services": serve,
    "check": checks.check,
    "install": install,
    "chaos": testing.chaos,
    "cluster": testing.cluster,
    "bench": bench,
    "docs": docs,
}
WITH_ARGUMENTS: dict[str, Callable[[list[str]], int]] = {"test": testing.test, "unit": testing.unit}
"""Commands that pass their arguments to pytest."""
