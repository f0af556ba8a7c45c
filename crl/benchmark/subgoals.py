"""How often a run's training episodes reached each sub-goal: over all of them, as Crafter's score wants it, and lately."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from crl.runs.folder import RunFolderError, Table

#: environment steps at the end of a run whose episodes are "late"
LATE = 100_000


class SubgoalRates(NamedTuple):
    """
    :param whole: success rate of each sub-goal over all training episodes, in percent
    :param late: over those that ended in the last :data:`LATE` environment steps; empty where the run is not that long
    """

    whole: Mapping[str, float]
    late: Mapping[str, float]

    @property
    def score(self) -> float:
        """Crafter's, in percent: of all training episodes, as published ones are."""
        from crl.runs.subgoal_score import crafter_score

        return crafter_score(list(self.whole.values()))


def read_rates(path: Path, repeat: int, end: int) -> SubgoalRates | None:
    """
    :param path: folder of a run; one that was restored has ``subgoals.json``
    :param repeat: environment steps in an agent step
    :param end: environment steps that the run has had
    :return: None where no sub-goals were counted, or no episode has ended
    :raises crl.runs.folder.RunFolderError: for files that cannot be read
    """
    kept, counted = path / "subgoals.json", path / "subgoals.csv"
    try:
        if kept.is_file():
            data = json.loads(kept.read_text())
            return SubgoalRates(dict(data["whole"]), dict(data["late"]))
        if not counted.is_file() or not Table(counted).rows():
            return None
        from crl.runs.subgoal_score import success_rates

        last, after = max(int(row["step"]) for row in Table(counted).rows()), (end - LATE) // repeat
        late = success_rates(counted, after) if after > 0 and last > after else {}
        return SubgoalRates(success_rates(counted), late)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"sub-goals in {path} cannot be read ({error}): move {kept.name} or {counted.name} away"
        ) from error


def as_json(rates: SubgoalRates) -> bytes:
    """What :func:`read_rates` reads."""
    return (json.dumps(rates._asdict(), indent=1) + "\n").encode()
