"""Progress of something that has several stages, on the error stream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from crl.runs.stop import wait_while_paused

#: told what is being done, and how many steps that takes; gives what to call after each
Stage = Callable[[str, int], Callable[[], None]]


def silent(what: str, steps: int) -> Callable[[], None]:
    """A :data:`Stage` that shows nothing."""
    return lambda: None


def _pause() -> None:
    wait_while_paused()


@contextmanager
def shown_stages() -> Iterator[Stage]:
    """A bar for each stage on a terminal, elsewhere a line; gives a :data:`Stage`. A benchmark's pause holds it up."""
    if not sys.stderr.isatty():

        def announce(what: str, steps: int) -> Callable[[], None]:
            print(f"{what} ({steps})", file=sys.stderr, flush=True)
            return _pause

        yield announce
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:

        def begin(what: str, steps: int) -> Callable[[], None]:
            task = progress.add_task(what, total=steps)

            def advance() -> None:
                progress.advance(task)
                _pause()

            return advance

        yield begin
