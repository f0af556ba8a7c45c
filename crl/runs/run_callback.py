"""What happens beside the learning in a run: checkpoints, evaluations, tables, the progress bar, a clean end on a signal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, TensorBoardOutputFormat
from stable_baselines3.common.utils import safe_mean
from torch.utils.tensorboard import SummaryWriter

from crl.callbacks import AchievementPhases
from crl.runs.checkpoint import Checkpoints
from crl.runs.evaluation import EvaluationStopped, evaluate
from crl.runs.folder import RunFolder, Table
from crl.runs.lengths import final_episodes
from crl.runs.return_text import return_text
from crl.runs.state import check_finite
from crl.runs.stop import StopRequest, wait_while_paused


class Stopped(Exception):
    """The run was asked to stop, and has been saved."""


class TableWriter(KVWriter):
    """SB3's log as a table that a resumed run goes on with (SB3's own CSV would begin anew)."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """One row; see SB3's ``KVWriter``."""
        plain = {
            key: value for key, value in sorted(key_values.items()) if isinstance(value, int | float) or hasattr(value, "item")
        }
        self.table.append({"step": step, **{key: float(value) for key, value in plain.items()}})

    def close(self) -> None:
        """Nothing is kept open."""


class EventWriter(TensorBoardOutputFormat):
    """
    SB3's TensorBoard log of a run that may have been killed later than its last checkpoint.

    :param folder: of the events
    :param step: agent step at which the run begins or goes on; earlier events from then on are no longer shown
    """

    def __init__(self, folder: str, step: int) -> None:
        super().__init__(folder)
        if step:
            self.writer.close()
            self.writer = SummaryWriter(log_dir=folder, purge_step=step + 1)


class RunCallback(BaseCallback):
    """
    Works between rollouts, when no transition is under way: the only place where a run can be taken up bitwise.

    :param folder: of the run
    :param config: resolved
    :param checkpoints: of the run
    :param others: the agent's callbacks, which are saved too
    :param total_steps: agent steps of the whole run
    :param action_repeat: environment steps in an agent step
    :param checkpoint_every: agent steps between checkpoints; 0 writes the last one only
    :param eval_every: agent steps between evaluations
    :param eval_episodes: episodes of one evaluation; of the last one, :func:`crl.runs.lengths.final_episodes`
    :param show_progress: draw the bar
    :param counters: of an earlier part of the run
    :param pause_at: agent step at which to save and stop; None runs to the end
    :param stop: tells of signals; None makes one of its own, which listens while the run learns
    """

    def __init__(
        self,
        folder: RunFolder,
        config: dict[str, Any],
        checkpoints: Checkpoints,
        others: Sequence[BaseCallback],
        total_steps: int,
        action_repeat: int,
        checkpoint_every: int,
        eval_every: int,
        eval_episodes: int,
        show_progress: bool = True,
        counters: dict[str, Any] | None = None,
        pause_at: int | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        super().__init__()
        self.stop = stop or StopRequest()
        self.pause_at = pause_at
        self.folder = folder
        self.config = config
        self.checkpoints = checkpoints
        self.others = others
        self.total_steps = total_steps
        self.action_repeat = action_repeat
        self.checkpoint_every = checkpoint_every
        self.eval_every = eval_every
        self.eval_episodes = eval_episodes
        #: goes into checkpoints
        self.counters = {"last_checkpoint": 0, "last_eval": 0, "seconds": 0.0, "eval_seconds": 0.0, **(counters or {})}
        self.eval_table = Table(folder.eval_file)
        self._began = time.monotonic()
        self._began_at = 0
        #: number of updates, and the time, when the first ones of this part of the run were done
        self._first_updates: tuple[int, float] | None = None
        self._loss = ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if show_progress:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            ]
            columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[shown]}")]
            self._progress = Progress(*columns, console=Console(stderr=True), refresh_per_second=2)

    @property
    def seconds(self) -> float:
        """Of the run so far, evaluations and earlier parts of the run included, pauses not."""
        return float(self.counters["seconds"]) + time.monotonic() - self._began

    @property
    def eval_seconds(self) -> float:
        """Of :attr:`seconds`, what evaluations took."""
        return float(self.counters["eval_seconds"])

    def _wait_while_paused(self) -> float:
        """As long as the file that a benchmark names is there; the time, which is given back, is not counted."""
        paused = wait_while_paused(lambda: self.stop.signal is not None)
        self._began += paused
        self._leave_out(paused)
        return paused

    def _leave_out(self, seconds: float) -> None:
        """No updates were to be expected meanwhile."""
        if self._first_updates is not None:
            self._first_updates = self._first_updates[0], self._first_updates[1] + seconds

    def _in_phase(self, phases: AchievementPhases) -> bool:
        """Asked before each gradient step of a phase: whether to give it up."""
        self._wait_while_paused()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, shown=f"distillation, gradient step {phases.n_updates}")
        return self.stop.signal is not None

    def _on_training_start(self) -> None:
        for other in self.others:
            if isinstance(other, AchievementPhases):
                other.interrupted = partial(self._in_phase, other)
        self._began = time.monotonic()
        self._began_at = self.model.num_timesteps
        if self._progress is not None:
            description = f"{self.config['agent']} {self.config['env']['id']}"
            total = self.total_steps if self.pause_at is None else min(self.pause_at, self.total_steps)
            self._task = self._progress.add_task(description, total=total, completed=self.model.num_timesteps, shown="")
            self._progress.start()

    def close(self) -> None:
        """Give the screen back; also after an exception."""
        if self._progress is not None:
            self._progress.stop()

    def _on_rollout_start(self) -> None:
        self._wait_while_paused()
        steps = self.model.num_timesteps
        updates = getattr(self.model, "_n_updates", 0)
        if self._first_updates is None and updates > 0 and steps > self._began_at:
            self._first_updates = updates, time.monotonic()
        if self.eval_every and steps - self.counters["last_eval"] >= self.eval_every and steps < self.total_steps:
            with suppress(EvaluationStopped):  # a run that is taken up evaluates first
                self.evaluate()
        due = self.checkpoint_every and steps - self.counters["last_checkpoint"] >= self.checkpoint_every
        if due and steps < self.total_steps:
            self.save()
        paused = self.pause_at is not None and steps >= self.pause_at
        if self.stop.signal is not None or paused:
            if steps > self.counters["last_checkpoint"]:
                self.save()
            raise Stopped(self.reason)

    @property
    def reason(self) -> str:
        """What stops the run."""
        return f"step {self.pause_at}" if self.stop.signal is None else self.stop.name

    def _on_step(self) -> bool:
        self._wait_while_paused()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self.model.num_timesteps, shown=self._shown())
        return True

    def _shown(self) -> str:
        """Return, loss and speed for the bar."""
        parts = []
        if self.model.ep_info_buffer:
            parts.append(f"return {return_text(safe_mean([info['r'] for info in self.model.ep_info_buffer]))}")
        for key in ("train/critic_loss", "train/loss"):
            if key in self.model.logger.name_to_value:  # it is there now and then, and shown until the next
                self._loss = f"loss {self.model.logger.name_to_value[key]:.3g}"
                break
        parts += [self._loss] if self._loss else []
        parts.append(f"{self.updates_per_second:.1f} updates/s")
        return "  ".join(parts)

    @property
    def updates_per_second(self) -> float:
        """Of this part of the run since its first update, checkpoints included, evaluations and pauses not; 0 before."""
        if self._first_updates is None:
            return 0.0
        updates, then = self._first_updates
        return (getattr(self.model, "_n_updates", 0) - updates) / max(time.monotonic() - then, 1e-9)

    def evaluate(self, final: bool = False) -> float:
        """
        One row of ``eval.csv``, and points for TensorBoard; the mean return.

        :param final: of the whole run
        :raises EvaluationStopped: after a signal
        """
        episodes = final_episodes(self.config) if final else self.eval_episodes
        began, paused = time.monotonic(), 0.0

        def given_up() -> bool:
            nonlocal paused
            paused += self._wait_while_paused()
            return self.stop.signal is not None

        try:
            result = evaluate(self.model, self.config, episodes, stop=given_up)
        finally:
            seconds = time.monotonic() - began - paused
            self.counters["eval_seconds"] += seconds
            self._leave_out(seconds)
        steps = self.model.num_timesteps
        self.counters["last_eval"] = steps
        row = {"step": steps, "env_steps": steps * self.action_repeat, "mean": result.mean, "std": result.std}
        row |= {"episodes": episodes, "seconds": round(self.seconds, 1)}
        shown = {"eval/mean_reward": result.mean}
        if result.q_mean is not None and result.mc_return is not None:
            row |= {"q_mean": result.q_mean, "mc_return": result.mc_return}
            shown |= {"eval/q_mean": result.q_mean, "eval/mc_return": result.mc_return}
        row |= {f"partner{partner}": value for partner, value in result.return_by_partner.items()}
        self.eval_table.append(row)
        for writer in self.model.logger.output_formats:  # at once: the log is not written again after the last episode
            if isinstance(writer, TensorBoardOutputFormat):
                writer.write(shown, dict.fromkeys(shown, ()), steps)
        return result.mean

    def save(self) -> None:
        """
        Write a checkpoint.

        :raises FloatingPointError: when the weights are no finite numbers: earlier checkpoints are worth more than this one
        """
        check_finite(self.model)
        self.counters["last_checkpoint"] = self.model.num_timesteps
        self.checkpoints.save(self.model, self.others, {**self.counters, "seconds": self.seconds})
        self.folder.update_summary(steps=self.model.num_timesteps, seconds=round(self.seconds, 1))
