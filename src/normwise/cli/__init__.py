"""The `normwise` command: parse, call, print."""

from __future__ import annotations

import sys
from typing import NoReturn

EXTRA = ("typer", "rich", "plotly", "sklearn", "PIL")
USAGE = 2


def main() -> None:
    """Run the command line.

    An invalid request ends with one or two sentences on stderr and exit code 2; every other error is a defect of the
    program and keeps its traceback.
    """
    from ..errors import InputError
    from .stopping import exit_code

    try:
        from .app import make_app

        make_app(sys.argv[1:])()
    except InputError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        _fail(f"This command needs {package}, which is not installed. Write: pip install 'normwise[cli]'")
    except KeyboardInterrupt as stop:
        sys.exit(exit_code(stop))


def _fail(message: str) -> NoReturn:
    print(f"normwise: {message}", file=sys.stderr)  # noqa: T201 rich may be what is missing
    sys.exit(USAGE)
