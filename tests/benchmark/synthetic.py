"""Folders as runs leave them, without training: curves are made up."""

import json

import numpy as np
import yaml

from crl.agents.recipes import resolve
from crl.runs.folder import Table

VERSIONS = {"crl": "0.1.0", "torch": "2.13.0+cpu"}


def write_run(
    out,
    agent="curl-sac",
    env="dmc/cartpole-swingup",
    seed=1,
    final=500.0,
    state="finished",
    evaluations=10,
    label=None,
    task=None,
    overrides=None,
    env_steps=100_000,
    revision="abc1234",
    probe=None,
    change=None,
    path=None,
    update=1,
):
    """A run at ``out/<label>/<task>/seed<k>`` whose return rises to ``final``; fewer evaluations than 10 end early."""
    folder = path or out / (label or agent) / (task or env).replace("/", "-") / f"seed{seed}"
    config = resolve(agent, env, {"train.env_steps": env_steps, **(overrides or {})})
    if change:
        change(config)
    repeat = {"dmc/cartpole-swingup": 8, "dmc/ball_in_cup-catch": 4, "dmc/walker-walk": 2}.get(env, 1)
    config["run"] = {
        "seed": seed,
        "steps": env_steps // repeat,
        "action_repeat": repeat,
        "device": "auto",
        "precision": "fp32",
        "checkpoint_every": 2500,
        "versions": VERSIONS,
        "python": "3.11.7",
        "machine": "Linux x86_64",
        "revision": revision,
        "update": update,
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    rng = np.random.default_rng(seed)
    table = Table(folder / "eval.csv")
    for k in range(1, evaluations + 1):
        steps = k * env_steps // 10
        mean = final if k == evaluations else final * (k / 10) ** 0.7 + rng.normal(0, abs(final) / 30)
        row = {"step": steps // repeat, "env_steps": steps, "mean": mean, "std": 3.0, "episodes": 10}
        table.append({**row, "seconds": 300.0 * k * (1 + seed / 20)})
    summary = {"state": state, "agent": agent, "env": env, "seed": seed, "steps": evaluations * env_steps // 10 // repeat}
    if state == "finished":
        summary |= {"env_steps": env_steps, "final_return": final, "eval_episodes": 10, "updates_per_second": 2.5}
        summary["seconds"] = 3000.0 * (1 + seed / 20)
    if state == "failed":
        summary["error"] = "the disk is full"
    (folder / "summary.json").write_text(json.dumps(summary))
    if probe is not None:
        target = folder / "probe" / "step000000012500"
        target.mkdir(parents=True)
        found = {
            name: {
                "probes": {"conv": {"width": 8, "r2": r2 - 0.05, "f1": None}, "output": {"width": 8, "r2": r2, "f1": None}},
                "effective_rank": 10 * r2,
                "retrieval": {"top1": r2},
            }
            for name, r2 in (("trained", probe), ("random", 0.2), ("supervised", 0.95))
        }
        found["pixel_pca"] = {"probes": {"output": {"width": 8, "r2": 0.4, "f1": None}}}
        (target / "probe.json").write_text(json.dumps({"representations": found, "gap_closed": {"output": 0.5}}))
    return folder


def write_partner_probe(folder, accuracy, egos=("agent", "random")):
    """What ``crl probe`` leaves of an agent that models others: right answers rise to ``accuracy``."""

    def interval(value):
        return {"value": value, "low": value - 0.03, "high": value + 0.03}

    moments = (1, 2, 3, 5, 10, 20, 50)
    levels = {"trained": accuracy, "random": 0.5}
    found = {
        "chance": 1 / 6,
        "accuracy": {
            name: {str(m): interval(1 / 6 + (level - 1 / 6) * k / 6) for k, m in enumerate(moments)}
            for name, level in levels.items()
        },
    }
    returns = {name: {"episodes": 100, **interval(value)} for name, value in (("greedy", 0.4), ("idle", 0.1), ("all", 0.25))}
    target = folder / "probe" / "step000000500000"
    target.mkdir(parents=True)
    (target / "probe.json").write_text(json.dumps({"identification": dict.fromkeys(egos, found), "returns": returns}))


def write_grid(out):
    """
    Three agents with five seeds on two tasks, and one with two: a run has failed, one goes on, one has not begun, one is of an
    older recipe.
    """
    levels = {"sac": 150, "rad-sac": 620, "curl-sac": 700}
    for agent, level in levels.items():
        for env, factor in (("dmc/cartpole-swingup", 1.0), ("dmc/ball_in_cup-catch", 1.2)):
            for seed in range(1, 6):
                final = factor * level + 40 * np.sin(7 * seed + level)
                kind = {}
                if (agent, factor, seed) == ("sac", 1.0, 4):
                    kind = {"state": "failed", "evaluations": 6}
                if (agent, factor, seed) == ("rad-sac", 1.2, 5):
                    kind = {"state": "running", "evaluations": 4}
                if (agent, factor, seed) == ("curl-sac", 1.0, 5):
                    kind = {"change": lambda config: config["algorithm"].update(tau=0.02)}
                write_run(out, agent, env, seed, final, probe=0.3 + level / 1400 + seed / 100 if factor == 1 else None, **kind)
    for seed in (1, 2):
        write_run(out, "frozen-sac", "dmc/cartpole-swingup", seed, 210.0 + 9 * seed)
    write_run(out, "frozen-sac", "dmc/ball_in_cup-catch", 1, 180.0)
    video = out / "curl-sac" / "dmc-cartpole-swingup" / "seed1" / "video"
    video.mkdir()
    (video / "step12500.mp4").write_bytes(b"no film")
    return out
