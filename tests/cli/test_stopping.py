"""A request to stop that is lost where it was raised is raised again when the sweep goes on."""

import signal
import weakref

import pytest

from mobconv.cli import stopping
from mobconv.cli.render import watching


class Held:
    pass


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, stopping.Terminated)]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_callback_loses(monkeypatch, number, raised):
    monkeypatch.setattr(stopping, "_asked", [])
    with watching() as watcher:
        watcher.stage("nobody has asked")
        held = Held()
        weakref.finalize(held, stopping.stop, number, None)  # what is raised in it goes nowhere
        del held
        with pytest.raises(raised):
            watcher.stage("the next cell")
