"""
A grid on a Ray cluster: one task a run, placed by Ray where threads and GPUs are free. Checkpoints lie in the benchmark's
folder, which all machines share; when a worker is lost, the runner hands the run over again and it goes on elsewhere.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from crl.benchmark.launch import LOST, Handle, Launch, NotedHandle, Outcome
from crl.runs.stop import STOPPED

#: bytes of shared memory that a Ray of our own gets: tasks hand over a few words, while the usual 30 % of RAM is the runs'
_STORE = 100_000_000


class RayError(ValueError):
    """A cluster that cannot be used; the message says what to do."""


class RayExecutor:
    """
    Connects to the cluster that ``RAY_ADDRESS`` names or that was started on this machine (``ray start``); where there is
    none, to one of this machine alone.

    :param threads: of each run: CPUs that Ray reserves for it
    :param gpus_per_run: GPUs that Ray reserves for it; 0.25 lets four runs share one
    :param memory: bytes that Ray reserves for it, of what each machine says that it has; 0 reserves none
    :raises RayError: when Ray is not installed, or no machine of the cluster is large enough
    """

    def __init__(self, threads: int = 1, gpus_per_run: float = 0.0, memory: float = 0.0) -> None:
        if find_spec("ray") is None:
            raise RayError("--executor ray needs Ray: pip install 'crl[cluster]'")
        if gpus_per_run > 1 and gpus_per_run != int(gpus_per_run):
            raise RayError(f"--gpus-per-run {gpus_per_run}: a part of one GPU, or a whole number of them")
        # read when Ray is imported
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(ray)
        try:
            self._check(ray, threads, gpus_per_run, memory)
        except RayError:
            self.close()
            raise
        # lost ones are handed over by the runner, which sees from the folder where they stand
        options: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpus_per_run, "max_retries": 0}
        if memory:
            options["memory"] = int(memory)
        self._task = ray.remote(**options)(_work)

    @staticmethod
    def _check(ray: Any, threads: int, gpus: float, memory: float) -> None:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = {"CPU": threads, "GPU": gpus, "memory": memory}
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in machines):
            there = "; ".join(map(_resources, machines))
            raise RayError(
                f"no machine of this Ray cluster has the {_resources(wanted)} that each run asks for (there are: "
                f"{there or 'none'}): choose other --threads and --gpus-per-run, or a smaller replay "
                "(--set algorithm.buffer_size=...)"
            )

    def start(self, launches: list[Launch]) -> list[Handle]:
        """One task each; Ray keeps them in a queue until there is room."""
        return [_RayHandle(launch, self._task.options(name=launch.folder).remote(launch)) for launch in launches]

    def adopt(self, launch: Launch) -> Handle | None:
        """Ray's tasks end with the process that has handed them over."""
        return None

    def close(self) -> None:
        """Leave the cluster, and end one of our own."""
        if self._ours:
            import ray

            ray.shutdown()


def _resources(node: Mapping[str, float]) -> str:
    memory = f" and {node['memory'] / 1e9:.1f} GB" if node.get("memory") else ""
    return f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs{memory}"


def _connect(ray: Any) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError as error:
        if os.environ.get("RAY_ADDRESS"):
            raise RayError(f"no Ray cluster answers at RAY_ADDRESS={os.environ['RAY_ADDRESS']}: {error}") from error
        ray.init(address="local", include_dashboard=False, object_store_memory=_STORE, **quiet)


def _work(launch: Launch) -> int:
    return launch()


class _RayHandle(NotedHandle):
    def __init__(self, launch: Launch, reference: Any) -> None:
        super().__init__(launch)
        self.reference = reference

    def poll(self) -> Outcome:
        import ray
        from ray import exceptions

        ready, _ = ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            return int(ray.get(self.reference))
        except exceptions.TaskCancelledError:
            return STOPPED
        except (exceptions.RayTaskError, exceptions.OutOfMemoryError, exceptions.RuntimeEnvSetupError) as error:
            self._log(str(error))  # the run's own doing, or its machine's: it counts as a crash
            return 1
        except exceptions.RayError as error:
            host = self.launch.where()
            self._log(f"the worker{f' on {host}' if host else ''} was lost ({type(error).__name__})")
            return LOST

    def _withdraw(self) -> None:
        import ray

        ray.cancel(self.reference)
