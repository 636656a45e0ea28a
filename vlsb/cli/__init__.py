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
    """Run the console script."""
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            # What the caller ignores stays ignored: `nohup` means it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler)
        from vlsb.cli.screen import use_safe_streams

        use_safe_streams()
        code = run_cli(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    ignore_signals()
    sys.exit(code)


def ignore_signals() -> None:
    """Ignore signals from here on: the outcome is settled, and one more Ctrl-C must not change its code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is one line on stderr."""
    if "VLSB_SKIP_BAD_PICTURES" in os.environ:
        os.environ.setdefault("VLSB_SKIP_BAD_IMAGES", os.environ["VLSB_SKIP_BAD_PICTURES"])
    from typer._click.exceptions import NoArgsIsHelpError
    from typer.exceptions import TyperException

    from vlsb.cli.screen import Screen, is_typed
    from vlsb.errors import VlsbError, machine_lack

    is_typed(arguments)
    try:
        from vlsb.cli.app import app

        # Of the working directory alone: a stranger's folder above it must not bring keys.
        if os.path.exists(".env"):  # noqa: PTH110 - the help page does not wait for pathlib
            from dotenv import load_dotenv

            load_dotenv(os.path.join(os.getcwd(), ".env"), override=False)  # noqa: PTH109, PTH118
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
        from vlsb.cli.commands import mistake_line

        sys.stderr.write(mistake_line(error, arguments) + "\n")
        return EXIT_USAGE
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 the last resort: a bug is said, and never with a traceback's contents
        if lack := machine_lack(error):
            Screen().error(lack)
            return lack.exit_code
        return _bug(error)
    return result if isinstance(result, int) else 0


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
