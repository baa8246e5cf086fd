"""Being asked to stop, by Ctrl-C or SIGTERM: an exception where the program stands, and again if it is lost there."""

from __future__ import annotations

import signal
import threading
from types import FrameType

_asked: list[int] = []


class Terminated(BaseException):
    """SIGTERM, as from `kill`, a CI runner or a batch system: cleaned up after like Ctrl-C."""


def stop(number: int, frame: FrameType | None) -> None:
    """Raise where the program stands, but not while it imports: an extension that cannot be initialised aborts.

    (onnx, interrupted there, ends the process in C++, and nothing is cleaned up.)
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            again = threading.Timer(0.05, signal.raise_signal, [number])
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    _asked.append(number)
    check()


def check() -> None:
    """Raise if the program was asked to stop: what is raised within a destructor or a callback of C code is lost."""
    if _asked:
        raise KeyboardInterrupt if _asked[-1] == signal.SIGINT else Terminated
