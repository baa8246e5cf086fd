"""coremltools, imported late and kept quiet."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from typing import Any

from mobconv.errors import BackendError

HINT = 'Core ML needs coremltools: pip install "mobconv[coreml]"'


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, version notices and warnings of coremltools; errors are still raised."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # bars go to stderr
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@functools.cache
def coremltools() -> Any:
    """The package. Raises BackendError with what to install where it is missing."""
    if find_spec("coremltools") is None:
        raise BackendError(HINT)
    with quiet():
        # Its import sets its logger to INFO, and warns of untested versions of torch and scikit-learn.
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            import coremltools
        except Exception as error:
            raise BackendError(f"coremltools is installed but cannot be imported: {error}") from error
        finally:
            logging.disable(previous)
    return coremltools


def proto() -> Any:
    """coremltools.proto, the message classes. Raises BackendError as `coremltools` does."""
    return coremltools().proto


def passes_but(without: Collection[str]) -> Any:
    """The converter's pipeline without some of its passes; None, its default, for all of them."""
    if not without:
        return None
    pipeline = coremltools().PassPipeline.DEFAULT
    pipeline.remove_passes(without)
    return pipeline
