"""The command line: one file a command, and one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import Annotated, TextIO

import typer

from mobconv.cli import backends, baseline, check, compare, evaluate, export, inspect, report, schema, stopping, sweep
from mobconv.common import memory
from mobconv.errors import MobconvError, OutputError

app = typer.Typer(
    name="mobconv",
    help="One PyTorch checkpoint to Core ML, TFLite and ONNX, fp32 down to 1 bit, every file measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 fine, 1 gate not met, 2 wrong usage, recipe or budget, 3 bad input, 4 backend missing, "
    "5 a cell failed, 6 cannot write, 130 interrupted, 141 nobody reads the output, 143 terminated.",
)


def _version(asked: bool) -> None:
    if asked:
        from mobconv.common.version import __version__

        print(f"mobconv {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Options of the program itself."""


app.command("export")(export.command)
app.command("evaluate")(evaluate.command)
app.command("compare")(compare.command)
app.command("sweep")(sweep.command)
app.command("report")(report.command)
app.command("check")(check.command)
app.command("baseline")(baseline.command)
app.command("inspect")(inspect.command)
app.command("backends")(backends.command)
app.command("schema")(schema.command)

INTERRUPTED = 130
UNREAD = 141  # what shells see of a program that SIGPIPE ends
TERMINATED = 143
# commands whose settings stand in a recipe: messages name its keys, those of other commands options
_OF_A_RECIPE = ("sweep",)
_FULL = "the disk is full; free some space and run the same command again"


def main() -> None:
    """Run the command line; the entry point of the script `mobconv`."""
    signal.signal(signal.SIGTERM, stopping.stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else a script put us in the background
        signal.signal(signal.SIGINT, stopping.stop)
    # Threads of torch that wait for one another spin for milliseconds by default, and on a busy machine keep the one
    # they wait for from running. Less spinning costs nothing and spares stalls of a minute. Set before torch is there.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    memory.keep_freed()
    code = _until_unread(sys.argv[1:])
    # what is left in the buffers, now: at exit the interpreter would tell a closed pipe as an error of its own
    for stream in _streams():
        try:
            stream.flush()
        except BrokenPipeError:
            code = code or UNREAD
            _discard(stream)
    sys.exit(code)


def _until_unread(arguments: list[str]) -> int:
    """`run`, ending quietly where whoever read the output is gone, as `| head` is: the command has not failed.

    click and rich make SystemExit(1) of it, which here would say that a budget was not met.
    """
    before = _targets()
    try:
        return run(arguments)
    except (BrokenPipeError, SystemExit) as error:
        pipe = error if isinstance(error, BrokenPipeError) else error.__context__
        if not isinstance(pipe, BrokenPipeError):
            raise
        unread = [stream for stream in _streams() if _unread(stream)]
        if not unread and before == _targets():  # else rich closed it itself
            raise pipe from None  # of another program, such as a worker
        for stream in unread:
            _discard(stream)
        return UNREAD


def _streams() -> list[TextIO]:
    """stdout and stderr, where the process was given them."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _targets() -> list[tuple[int, int]]:
    """Where they lead: a file that was written to meanwhile is the same."""
    statuses = [os.fstat(stream.fileno()) for stream in _streams()]
    return [(each.st_dev, each.st_ino) for each in statuses]


def _unread(stream: TextIO) -> bool:
    """Whether it is a pipe that nobody reads any more."""
    asked = select.poll()
    asked.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))


def _discard(stream: TextIO) -> None:
    """Send what is still written there nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def run(arguments: list[str]) -> int:
    """Run with these arguments and return the exit code; errors are one message on stderr."""
    try:
        code = app(args=arguments, prog_name="mobconv", standalone_mode=False)
        if code == INTERRUPTED:  # what newer releases of typer make of a KeyboardInterrupt
            raise KeyboardInterrupt
        return int(code) if isinstance(code, int) else 0
    except stopping.Terminated:
        return _say("terminated; whole files stay, partial ones were removed", TERMINATED)
    except (KeyboardInterrupt, typer.Abort):  # and older ones
        return _say("interrupted; whole files stay, partial ones were removed", INTERRUPTED)
    except (MobconvError, OSError) as error:
        from mobconv.common.files import disk_full

        if disk_full(error) and not isinstance(error, OutputError):
            return _say(_FULL, OutputError.exit_code)
        if isinstance(error, MobconvError):
            return _say(error.message("recipe" if arguments[0] in _OF_A_RECIPE else "cli"), error.exit_code)
        raise
    except Exception as error:  # click's errors know their code, and those of usage how to show themselves
        if not hasattr(error, "exit_code"):
            raise
        if hasattr(error, "show"):
            error.show()
        return int(error.exit_code)


def _say(text: str, code: int) -> int:
    print(f"mobconv: {text}", file=sys.stderr)
    return code
