"""The command line: one file a command, and one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import sys

import typer

from mobconv.cli import backends, evaluate, export, sweep
from mobconv.errors import MobconvError, OutputError

app = typer.Typer(
    name="mobconv",
    help="One PyTorch checkpoint to Core ML, TFLite and ONNX, fp32 down to 1 bit, every file measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 fine, 1 gate not met, 2 wrong usage or recipe, 3 bad input, 4 backend missing, "
    "5 a cell failed, 6 cannot write, 130 interrupted.",
)
app.command("export")(export.command)
app.command("evaluate")(evaluate.command)
app.command("sweep")(sweep.command)
app.command("backends")(backends.command)

INTERRUPTED = 130


def main() -> None:
    """Run the command line; the entry point of the script `mobconv`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run with these arguments and return the exit code; errors are one message on stderr."""
    try:
        code = app(args=arguments, prog_name="mobconv", standalone_mode=False)
        return int(code) if isinstance(code, int) else 0
    except MobconvError as error:
        return _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted; whole files stay, partial ones were removed", INTERRUPTED)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _say("the disk is full; free some space and run the same command again", OutputError.exit_code)
        raise
    except Exception as error:  # click's usage errors know how to show themselves
        if hasattr(error, "exit_code") and hasattr(error, "show"):
            error.show()
            return int(error.exit_code)
        raise


def _say(text: str, code: int) -> int:
    print(f"mobconv: {text}", file=sys.stderr)
    return code
