"""
The command line: ``crl train | resume | eval | bench | tune | report | probe | pretrain | list | doctor``.

Nothing heavy is imported before the arguments are known to be right: a wrong name answers at once, and ``--help`` too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from crl.runs.return_text import return_text
from crl.runs.settings import settings
from crl.runs.stop import STOPPED, StopRequest


@dataclass
class Train:
    """Train an agent on an environment. `crl list` names both."""

    agent: tyro.conf.Positional[str]
    """recipe, for example curl-sac"""
    env: tyro.conf.Positional[str]
    """environment, for example dmc/cartpole-swingup"""
    steps: int | None = None
    """length in agent steps (SB3's total_timesteps)"""
    env_steps: int | None = None
    """length in environment steps, action repeat counted; default: the recipe's"""
    seed: int = 1
    """of everything"""
    out: Path | None = None
    """run folder; default: runs/adhoc/<agent>/<env>/seed<k>"""
    device: str = "auto"
    """cpu, cuda, cuda:1 ..."""
    threads: int | None = None
    """of torch's CPU kernels"""
    precision: str | None = None
    """of the conv body: fp32, bf16 or auto"""
    checkpoint_every: int = 2500
    """agent steps between checkpoints"""
    set: Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="FIELD=VALUE")] = field(default_factory=list)
    """change a field of the recipe, for example --set objective.weight=0.5; or a .yaml file of such, as crl tune writes"""


@dataclass
class Resume:
    """Go on with a run that was stopped or died."""

    run: tyro.conf.Positional[Path]
    """run folder"""


@dataclass
class Eval:
    """Evaluate a run's last checkpoint."""

    run: tyro.conf.Positional[Path]
    """run folder"""
    episodes: int = 10
    """number of episodes"""
    video: bool = False
    """film the first episode into the run's video/ folder"""
    partners: bool = False
    """lbf/ and mpe/: so many episodes with each partner of the pool"""


@dataclass
class Probe:
    """Ask what the encoder of a run's last checkpoint knows of the true state."""

    run: tyro.conf.Positional[Path]
    """run folder"""
    episodes: int | None = None
    """held-out episodes: half to fit probes, a quarter to choose, a quarter to report; default: 60, 1200 of agent models"""
    seed: int = 0
    """of episodes, random encoders and supervised training"""
    out: Path | None = None
    """folder for numbers and pictures; default: <run>/probe/step<k>"""
    encoder: str | None = None
    """which one, of agents that have several: critic, actor ..."""
    supervised_updates: int = 2000
    """of the ceiling: the same encoder trained on the true state; 0 leaves it out"""
    pool: Literal["train", "test", "all"] | None = None
    """of agents that model others: partners of the episodes; default: those of the run. Others go to <run>/probe_<pool>/"""
    pictures: bool = True
    """draw views, similarities, embedding, neighbours, saliency (matplotlib)"""


@dataclass
class Pretrain:
    """Train an encoder on stored transitions, for agents to start from."""

    data: tyro.conf.Positional[str]
    """saved replay buffer (model.save_replay_buffer), run folder, or minari:<data set>"""
    objective: str = "curl"
    """`crl list` names them"""
    encoder: str = "pixel"
    """pixel, nature, rainbow or impala"""
    augment: str = "auto"
    """auto (the buffer's own, else shifts by 4), none, random_shift, random_crop ..."""
    updates: int = 10_000
    """steps of Adam"""
    batch_size: int = 128
    """observations, windows or episodes in one step"""
    learning_rate: float = 1e-3
    """of encoder and heads"""
    seed: int = 1
    """of everything"""
    out: Path | None = None
    """folder; default: runs/pretrain/<objective>/<data>/seed<k>"""
    device: str = "auto"
    """cpu, cuda, cuda:1 ..."""
    threads: int | None = None
    """of torch's CPU kernels"""
    stack: int = 1
    """Minari: frames in an observation"""
    size: int | None = None
    """Minari: side to which frames are resized"""
    image_key: str | None = None
    """of Dict observations with several images"""
    checkpoint_every: int = 1000
    """updates between checkpoints"""
    set: Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="PART.NAME=VALUE")] = field(
        default_factory=list
    )
    """argument of a part, for example --set objective.tau=0.01 or --set encoder.features_dim=128"""


@dataclass
class List:
    """List agents, environments, objectives and suites."""

    matrix: bool = False
    """which objective goes with which SB3 algorithm instead: tries every pair on a tiny environment, which takes minutes"""


@dataclass
class Bench:
    """Run agents on the tasks of a suite, seed by seed; what is finished is skipped, what was cut off goes on."""

    suite: tyro.conf.Positional[str]
    """name of a suite (crl list shows them), or a YAML file"""
    agents: str = ""
    """recipes, separated by commas; default: those that the suite names"""
    seeds: str | None = None
    """5 for 1 to 5, or 2-4, or 1,7,9; default: those that the suite names for an agent, else 5"""
    out: Path | None = None
    """folder of the benchmark; default: runs/<suite>. A file called pause in it makes the runs wait"""
    set: Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="FIELD=VALUE")] = field(default_factory=list)
    """change a field of the recipes; FIELD=A,B makes an ablation (FIELD=64,64;128,128 where values are lists)"""
    tuning: bool = False
    """seeds 101 to 200, for choosing hyperparameters, never reported"""
    dry_run: bool = False
    """show the grid, and the time, memory and disk that it takes"""
    workers: int | None = None
    """runs at a time; default: as many as fit, or as the cluster has room for"""
    threads: int = 1
    """of each run"""
    checkpoint_every: int = 2500
    """agent steps between checkpoints"""
    executor: str = "local"
    """local; ray (the cluster of RAY_ADDRESS or of `ray start`); slurm. Clusters need --out on a shared file system"""
    gpus_per_run: float = 0.0
    """GPUs that a cluster reserves for each run; on ray 0.25 lets four share one"""
    slurm: Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="KEY=VALUE")] = field(default_factory=list)
    """of submitit's executor, for example --slurm slurm_partition=gpu --slurm timeout_min=600"""
    probe: bool = False
    """let `crl probe` follow each finished run"""
    video: bool = False
    """film an episode of each finished run; the report links to it"""
    retry_failed: bool = False
    """try runs anew that have failed before, from their last checkpoint"""
    device: str = "auto"
    """of each run: auto, cpu, cuda. Local runs are spread over the GPUs, one on each unless --workers is more"""


@dataclass
class Tune:
    """Search over fields of a recipe (Optuna), on tuning seeds, which are never reported; can be killed and started again."""

    agent: tyro.conf.Positional[str]
    """recipe, for example curl-sac"""
    env: tyro.conf.Positional[str]
    """environment, for example dmc/cartpole-swingup"""
    trials: int = 30
    """settings to try, all in all"""
    search: Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="FIELD=RANGE")] = field(default_factory=list)
    """field and where to look: objective.temperature=0.05..1.0:log, algorithm.batch_size=64..256:step=32, policy.layers=2,4"""
    set: Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="FIELD=VALUE")] = field(default_factory=list)
    """fields that all trials share, for example --set train.env_steps=20000"""
    seeds: str = "101-103"
    """of each trial, from 101 to 200"""
    out: Path | None = None
    """folder of the search; default: runs/tune/<agent>/<env>"""
    workers: int = 1
    """runs of a trial at a time"""
    threads: int = 1
    """of each run"""
    checkpoint_every: int = 2500
    """agent steps between checkpoints"""
    prune: bool = True
    """end trials early that are below the median of earlier ones"""


@dataclass
class Doctor:
    """Check versions, rendering, compute and memory."""

    agent: str = "curl-sac"
    """recipe whose replay memory is forecast"""
    env: str = "dmc/cartpole-swingup"
    """environment of that forecast"""


@dataclass
class Report:
    """Compare runs: one HTML file with statistics, curves and tables; figures and tables as files beside it."""

    folders: tyro.conf.Positional[list[Path]]
    """folders of runs, or with runs below them, such as crl bench writes"""
    out: Path | None = None
    """HTML file to write; default: report.html in the first folder"""
    suite: str | None = None
    """suite, or a .yaml file of one, that says how returns become scores; default: as planned by crl bench, else crl's own"""
    title: str | None = None
    """of the page, and of the figure where all runs are on one task; default: names the suite"""


_COMMANDS = (
    Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
    | Annotated[Resume, tyro.conf.subcommand("resume", prefix_name=False)]
    | Annotated[Eval, tyro.conf.subcommand("eval", prefix_name=False)]
    | Annotated[Bench, tyro.conf.subcommand("bench", prefix_name=False)]
    | Annotated[Tune, tyro.conf.subcommand("tune", prefix_name=False)]
    | Annotated[Report, tyro.conf.subcommand("report", prefix_name=False)]
    | Annotated[Probe, tyro.conf.subcommand("probe", prefix_name=False)]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain", prefix_name=False)]
    | Annotated[List, tyro.conf.subcommand("list", prefix_name=False)]
    | Annotated[Doctor, tyro.conf.subcommand("doctor", prefix_name=False)]
)


class UsageError(ValueError):
    """Something on the command line is wrong."""


def main(argv: Sequence[str] | None = None) -> None:
    """
    Entry point; leaves by ``SystemExit``: 0 done, 2 wrong usage, 1 a run failed, 130 stopped by a signal.

    :param argv: arguments; None takes those of the process
    """
    actions: dict[type[Any], Callable[[Any], int]] = {
        Train: _train,
        Resume: _resume,
        Eval: _eval,
        Bench: _bench,
        Tune: _tune,
        Report: _report,
        Probe: _probe,
        Pretrain: _pretrain,
        List: _list,
        Doctor: _doctor,
    }
    # as python -m crl has it: environments and agents of one's own are modules that lie here
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        command: Any = tyro.cli(
            _COMMANDS,
            prog="crl",
            args=_spread(sys.argv[1:] if argv is None else argv),
            description="Representation learning for SB3 agents from pixels.",
        )
        sys.exit(actions[type(command)](command))
    except ValueError as error:
        # configurations, names, values and folders are all ValueErrors of ours, raised before anything is built
        if not _is_ours(error):
            raise
        print(f"crl: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ncrl: stopped", file=sys.stderr)
        sys.exit(STOPPED)


def _spread(argv: Sequence[str]) -> list[str]:
    """Each field after one ``--set`` gets a ``--set`` of its own: ``--set a.b=1 c.d=2``, as other tools take it."""
    found: list[str] = []
    after = False
    for word in argv:
        first = bool(found) and found[-1] == "--set"
        after = word == "--set" or first or (after and re.fullmatch(r"[a-z_][\w.]*=.*", word, re.DOTALL) is not None)
        if after and not first and word != "--set":
            found.append("--set")
        found.append(word)
    return found


def _is_ours(error: ValueError) -> bool:
    return type(error).__module__.startswith("crl.")


def _overrides(command: Train) -> dict[str, Any]:
    overrides = settings(command.set)
    named = {"train.env_steps": command.env_steps, "train.threads": command.threads, "policy.precision": command.precision}
    return {**overrides, **{path: value for path, value in named.items() if value is not None}}


def _check(command: Train) -> None:
    """Everything that can be wrong without looking at the recipe."""
    if command.steps is not None and command.env_steps is not None:
        raise UsageError("--steps and --env-steps are two ways to say the same: give one")
    if command.steps is not None and command.steps < 1:
        raise UsageError(f"--steps {command.steps}: at least 1")
    _check_seed(command.seed)
    _check_checkpoint_every(command.checkpoint_every)
    _check_device(command.device)


def _check_checkpoint_every(steps: int) -> None:
    if steps < 0:
        raise UsageError(f"--checkpoint-every {steps}: 0 (at the end only) or more agent steps")


def _check_device(device: str) -> None:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"--device {device}: auto, cpu, cuda or cuda:<index>")


def _train(command: Train) -> int:
    with StopRequest() as stop:
        return _train_until(command, stop)


def _train_until(command: Train, stop: StopRequest) -> int:
    from crl.agents.recipes import env_options, resolve
    from crl.envs.make import check_env_id
    from crl.runs.folder import RunFolder

    _check(command)
    overrides = _overrides(command)
    check_env_id(command.env, env_options(overrides))
    resolve(command.agent, command.env, overrides)
    out = command.out or RunFolder.default_path("adhoc", command.agent, command.env, command.seed)
    RunFolder(out).check_free()
    _prepare()
    from crl.runs.run import new_run, train

    if stop.signal is not None:
        return _stopped_early(stop)
    folder = new_run(
        command.agent,
        command.env,
        overrides,
        command.seed,
        out=out,
        steps=command.steps,
        device=command.device,
        checkpoint_every=command.checkpoint_every,
    )
    return _supervise(train, folder, stop)


def _stopped_early(stop: StopRequest) -> int:
    print(f"\nstopped by {stop.name} before anything began", file=sys.stderr)
    return STOPPED


def _open(path: Path) -> Any:
    """A run's folder whose configuration is as it should be."""
    from crl.agents.recipes import parse
    from crl.runs.folder import RunFolder

    folder = RunFolder(path)
    parse({key: value for key, value in folder.config().items() if key != "run"})
    return folder


def _resume(command: Resume) -> int:
    from crl.pretrain.folder import PretrainFolder, is_pretraining

    if is_pretraining(command.run):
        pretraining = PretrainFolder(command.run)
        if pretraining.summary().get("state") == "finished":
            print(f"{pretraining.path} is finished: {pretraining.encoder_file}")
            return 0
        with StopRequest() as stop:
            _prepare()
            return _supervise_pretraining(pretraining, stop)
    folder = _open(command.run)
    if folder.summary().get("state") == "finished":
        print(f"{folder.path} is finished: final return {return_text(folder.summary()['final_return'])}")
        return 0
    with StopRequest() as stop:
        _prepare()
        from crl.runs.run import resume

        return _stopped_early(stop) if stop.signal is not None else _supervise(resume, folder, stop)


def _supervise(action: Any, folder: Any, stop_request: StopRequest) -> int:
    """Run something long; whatever ends it is said in one line."""
    from crl.runs.run import RunError, Stopped

    try:
        summary = action(folder, show_progress=sys.stderr.isatty(), stop=stop_request)
    except Stopped as stop:
        print(f"\nstopped by {stop} and saved. Go on with: crl resume {folder.path}", file=sys.stderr)
        return STOPPED
    except RunError as error:
        on = f" Go on with: crl resume {folder.path}" if error.can_go_on else ""
        print(f"crl: the run failed: {error}\nDetails: {folder.path}/error.txt.{on}", file=sys.stderr)
        return 1
    print(
        f"{folder.path}: final return {return_text(summary['final_return'])} over {summary['eval_episodes']} episodes after "
        f"{summary['env_steps']} environment steps, {_speed(summary)}"
    )
    return 0


def _speed(summary: dict[str, Any]) -> str:
    """Of a finished run's training; SB3 counts epochs over a rollout as updates of on-policy agents, which tell little."""
    steps = summary["env_steps"] / max(1e-9, summary["training_seconds"])
    updates = summary["updates_per_second"]
    return f"{steps:.1f} of them a second" + (f", {updates:.1f} updates/s" if updates >= 0.1 else "")


def _eval(command: Eval) -> int:
    if command.episodes < 1:
        raise UsageError(f"--episodes {command.episodes}: at least 1")
    folder = _open(command.run)
    config = folder.config()
    if not folder.has_checkpoint():
        raise UsageError(f"{folder.path} has no checkpoint yet: nothing to evaluate")
    if command.video and find_spec("imageio") is None:
        raise UsageError("--video needs imageio: pip install 'crl[dmc]'")
    _prepare()
    from crl.runs.evaluation import evaluate, write_video
    from crl.runs.run import RunError, load_model

    try:
        model = load_model(folder)
    except RunError as error:
        print(f"crl: {error}", file=sys.stderr)
        return 1
    if command.partners:
        from crl.runs.partner_evaluation import evaluate_per_partner

        for found in evaluate_per_partner(model, config, command.episodes):
            mean = found.mean
            print(
                f"{found.name:22} {'trained with' if found.trained_with else 'a stranger':13} "
                f"return {return_text(mean.value)}, 95 % interval {return_text(mean.low)} to {return_text(mean.high)}, "
                f"{command.episodes} episodes"
            )
    result = evaluate(model, config, command.episodes, film=command.video)
    print(
        f"return {return_text(result.mean)} +- {return_text(result.std)} over {command.episodes} episodes, "
        f"at agent step {model.num_timesteps}"
    )
    if command.video:
        path = folder.video / f"step{model.num_timesteps}.mp4"
        print(f"video: {write_video(result.frames, path)}")
    return 0


def _bench(command: Bench) -> int:
    from crl.benchmark.command import bench

    _check_device(command.device)
    if command.executor == "local" and command.device.startswith("cuda"):
        from crl.runs.run import check_device

        check_device(command.device)
    if command.out is not None:
        _check_folder(command.out)
    options = {name: value for name, value in vars(command).items() if name != "set"}
    return bench(items=command.set, **options)


def _tune(command: Tune) -> int:
    from crl.benchmark.tune import tune

    if command.out is not None:
        _check_folder(command.out)
    _check_checkpoint_every(command.checkpoint_every)
    options = {name: value for name, value in vars(command).items() if name != "set"}
    return tune(fixed=settings(command.set, "train.env_steps=20000"), **options)


def _probe(command: Probe) -> int:
    if command.episodes is not None and command.episodes < 8:
        raise UsageError(f"--episodes {command.episodes}: at least 8, to fit, to choose and to report on two")
    _check_seed(command.seed)
    if command.supervised_updates < 0:
        raise UsageError(f"--supervised-updates {command.supervised_updates}: 0 (none) or more")
    folder = _open(command.run)
    if not folder.has_checkpoint():
        raise UsageError(f"{folder.path} has no checkpoint yet: nothing to probe")
    if command.out is not None:
        _check_folder(command.out)
    if command.pictures and find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib: pip install 'crl[bench]', or leave them out: --no-pictures")
    _prepare()
    from crl.probe.report import probe_run, table
    from crl.runs.run import RunError
    from crl.runs.stages import shown_stages

    try:
        with shown_stages() as stage:
            report = probe_run(
                folder,
                command.episodes,
                command.seed,
                command.out,
                command.encoder,
                command.supervised_updates,
                command.pictures,
                stage,
                command.pool,
            )
    except RunError as error:
        print(f"crl: {error}", file=sys.stderr)
        return 1
    print(f"{report['encoder']} encoder at agent step {report['step']}, {report['episodes']} held-out episodes")
    print(table(report))
    print(f"written to {report['folder']}")
    return 0


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**31:
        raise UsageError(f"--seed {seed}: from 0 to 2147483647")


def _check_folder(path: Path) -> None:
    file = next((part for part in (path, *path.parents) if part.exists() and not part.is_dir()), None)
    if file is not None:
        raise UsageError(f"--out {path}: {file} is a file. Choose another folder")


def _pretrain(command: Pretrain) -> int:
    numbers = ("updates", "batch_size", "threads", "stack", "size", "checkpoint_every")
    low = {"batch_size": 2}
    for name in numbers:
        value = getattr(command, name)
        if value is not None and value < low.get(name, 1):
            raise UsageError(f"--{name.replace('_', '-')} {value}: at least {low.get(name, 1)}")
    if not command.learning_rate > 0:
        raise UsageError(f"--learning-rate {command.learning_rate}: more than 0")
    _check_seed(command.seed)
    _check_device(command.device)
    parts = settings(command.set, "objective.tau=0.01")
    if command.out is not None:
        _check_folder(command.out)
    with StopRequest() as stop:
        _prepare()
        from crl.pretrain.training import new_pretraining

        if stop.signal is not None:
            return _stopped_early(stop)
        options = {name: value for name, value in vars(command).items() if name not in ("set", "data")}
        folder = new_pretraining(command.data, settings=parts, **options)
        return _supervise_pretraining(folder, stop)


def _supervise_pretraining(folder: Any, stop_request: StopRequest) -> int:
    from crl.pretrain.training import pretrain
    from crl.runs.run import RunError, Stopped
    from crl.runs.stages import shown_stages

    try:
        with shown_stages() as stage:
            summary = pretrain(folder, stop_request, stage)
    except Stopped as stop:
        print(f"\nstopped by {stop} and saved. Go on with: crl resume {folder.path}", file=sys.stderr)
        return STOPPED
    except RunError as error:
        print(f"crl: the pre-training failed: {error}", file=sys.stderr)
        return 1
    print(f"{folder.encoder_file}: after {summary['updates']} updates, {summary['updates_per_second']:.1f} a second")
    return 0


def _report(command: Report) -> int:
    from crl.benchmark.report import report

    print(report(command.folders, command.out, command.suite, command.title))
    return 0


def _list(command: List) -> int:
    if command.matrix:
        _prepare()
        from crl.matrix import matrix_lines

        for line in matrix_lines():
            print(line, flush=True)
        return 0
    from crl.agents.recipes import list_recipes
    from crl.benchmark.suite import list_suites
    from crl.envs.make import list_envs
    from crl.objectives import list_objectives

    print("agents")
    for name, text in list_recipes().items():
        print(f"  {name:18} {text}")
    print("environments")
    dmc = [name for name in list_envs() if name.startswith("dmc/")]
    games = [name for name in list_envs() if name.startswith("atari/")]
    for name, text in list_envs().items():
        if name not in (*dmc, *games):
            print(f"  {name:18} {text}")
    print(f"  {'dmc/<task>':18} DeepMind Control from pixels: {', '.join(name.removeprefix('dmc/') for name in dmc)}")
    print(f"  {'atari/<Game>':18} Atari 2600, 100k protocol or v5: {', '.join(name.removeprefix('atari/') for name in games)}")
    print("objectives")
    for name, text in list_objectives().items():
        print(f"  {name:18} {text}")
    print("suites")
    for name, text in list_suites().items():
        print(f"  {name:18} {text}")
    return 0


def _doctor(command: Doctor) -> int:
    from crl.agents.recipes import resolve
    from crl.envs.make import check_env_id

    check_env_id(command.env)
    config = resolve(command.agent, command.env, {})
    _prepare()
    from crl.doctor import report

    return report(config)


def _prepare() -> None:
    """The allocator has to be set before torch allocates."""
    from crl.compute import tune_allocator

    tune_allocator()
