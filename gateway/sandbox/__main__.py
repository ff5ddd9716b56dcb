"""`python -m gateway.sandbox --port N --file PATH [--host ADDRESS] [--latency-ms N]`."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from gateway.sandbox.behaviour import LATENCY_MAX_MS
from gateway.sandbox.server import Server
from gateway.sandbox.store import Store


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError
    return port


def _latency(text: str) -> int:
    milliseconds = int(text)
    if not 0 <= milliseconds <= LATENCY_MAX_MS:
        raise ValueError
    return milliseconds


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m gateway.sandbox", description="Run the sandbox acquirer, for tests.")
    parser.add_argument("--port", type=_port, required=True, help="port to listen on; 0 chooses a free port")
    parser.add_argument("--file", type=Path, required=True, help="SQLite file; it is created if it does not exist")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--latency-ms",
        type=_latency,
        default=0,
        help="duration of each charge, refund and query (default: %(default)s)",
    )
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    store = Store(arguments.file)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server(store, arguments.host, arguments.port, arguments.latency_ms)
    port = await server.open()
    sys.stdout.write(f"listening on http://{arguments.host}:{port}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.finish()
    store.close()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    arguments = _arguments()
    try:
        asyncio.run(_run(arguments))
    except OSError as exc:
        sys.exit(f"cannot listen on {arguments.host}:{arguments.port}: {exc}")


if __name__ == "__main__":
    main()
