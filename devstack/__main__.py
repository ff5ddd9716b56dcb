"""``python -m devstack COMMAND``; `make help` lists the commands. Only the standard library until .venv exists."""

import sys

from devstack.bootstrap import enter_venv
from devstack.terminal import DevstackError, print_error


def main(arguments: list[str]) -> int:
    try:
        enter_venv(arguments)
        from devstack import commands  # needs what enter_venv installs

        return commands.run(arguments)
    except DevstackError as error:
        print_error(str(error))
        return 1
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130


sys.exit(main(sys.argv[1:]))
