"""The commands: options in, one object out, one `asyncio.run`, one exit code. Nothing is decided here."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    code = run_cli(sys.argv[1:] if arguments is None else arguments)
    # What is left is the interpreter's end; a late Ctrl-C must not turn the code into a signal's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is one line on stderr."""
    from typer._click.exceptions import NoArgsIsHelpError
    from typer.exceptions import TyperException

    from vlsb.cli.app import app
    from vlsb.cli.screen import Screen
    from vlsb.errors import VlsbError

    _load_environment_file()
    try:
        result = app(arguments, prog_name="vlsb", standalone_mode=False)
    except NoArgsIsHelpError as error:
        # A page in boxes has printed itself by now, and left nothing.
        if page := error.format_message():
            sys.stdout.write(page + "\n")
        return 0
    except VlsbError as error:
        # Options that cannot even be kept, such as a key in the place of its variable's name.
        Screen().error(error)
        return error.exit_code
    except TyperException as error:
        from vlsb.endpoints.secrets import without_keys

        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "vlsb"
        said = " ".join(error.format_message().split())
        sys.stderr.write(f"Error: {without_keys(said)} See `{command} --help`.\n")
        return EXIT_USAGE
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BUG
    except Exception as error:  # noqa: BLE001 the last resort: a bug is said, and never with a traceback's contents
        return _bug(error)
    return result if isinstance(result, int) else 0


def _load_environment_file() -> None:
    """Variables of `.env`. Only the working directory's own: a stranger's parent must not bring keys."""
    if os.path.exists(".env"):  # noqa: PTH110 - the help page does not wait for pathlib
        from dotenv import load_dotenv

        load_dotenv(os.path.join(os.getcwd(), ".env"), override=False)  # noqa: PTH109, PTH118


def _bug(error: BaseException) -> int:
    """Say where it broke, without values: a traceback's text may hold answers or keys."""
    import traceback

    if isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if os.environ.get("VLSB_TRACEBACK"):
        traceback.print_exception(error)
        return EXIT_BUG
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    sys.stderr.write(
        f"Error: internal error, {type(error).__name__}{place}. Everything finished is stored; "
        "VLSB_TRACEBACK=1 shows more. Please report it.\n"
    )
    return EXIT_BUG
