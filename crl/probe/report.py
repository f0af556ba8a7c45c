"""
``crl probe``: what the encoder of a run's last checkpoint knows, beside a random encoder of the same architecture, the pixels'
principal components and the same architecture trained on the true state.
"""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch.utils.tensorboard import SummaryWriter

from crl.agents import build
from crl.augment import RandomShift
from crl.callbacks.find_encoders import FoundEncoder, find_encoders
from crl.contract import Augmentation
from crl.encoders import ModelEncoder
from crl.history import HistoryExtractor, history_extractor
from crl.metrics import effective_rank
from crl.probe import pictures
from crl.probe.episodes import ProbeData, ProbeError, collect
from crl.probe.features import conv_features, fit_supervised, output_features, pixel_pca
from crl.probe.labels import MIN_ENTROPY, LabelScore, entropy, known_parts, score_labels
from crl.probe.linear import ridge_r2, split_episodes, varying
from crl.probe.partners import draw_partner_pictures, partner_rows, partner_table, probe_partners
from crl.probe.retrieval import retrieval_top1
from crl.runs.folder import RunFolder, write_atomically
from crl.runs.run import load_model
from crl.runs.stages import Stage, silent

#: states that are reported but do not count in the mean: an agent need not know them
NOT_COUNTED = ("distractor",)
#: a dimension of smaller standard deviation, relative to the largest, has collapsed
_COLLAPSED = 0.01

#: retrieval on the last quarter needs two
MIN_EPISODES = 8
#: unless told otherwise; who a partner is can be asked once an episode
EPISODES, PARTNER_EPISODES = 60, 1200


def probe_run(
    folder: RunFolder,
    episodes: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    encoder: str | None = None,
    supervised_updates: int = 2000,
    with_pictures: bool = True,
    stage: Stage = silent,
    pool: str | None = None,
) -> dict[str, Any]:
    """
    Probe the last checkpoint of a run. Writes ``probe.json``, ``probe.csv`` and pictures, and the same for TensorBoard. The
    encoder of histories of agents that model others is asked who they are, see :mod:`crl.probe.partners`.

    :param folder: of a run
    :param episodes: to collect, at least 8; half are fitted to, a quarter chooses penalties, a quarter is reported. None: 60,
        or 1200 of agents that model others, for each way of acting
    :param seed: of episodes, random encoder and supervised training
    :param out: folder to write to; None takes ``<run>/probe/step<k>``
    :param encoder: name, for agents that have several (``"actor"``, ``"critic"``); None takes the first
    :param supervised_updates: of the supervised encoder; 0 leaves it out
    :param with_pictures: needs matplotlib
    :param stage: see :data:`crl.runs.stages.Stage`
    :param pool: of agents that model others, the partners: ``"train"``, ``"test"``, ``"all"``; None: as in the run. Without
        ``out``, numbers go to ``<run>/probe_<pool>/step<k>``
    :return: what ``probe.json`` says
    :raises ProbeError: for an encoder that there is not, too few episodes, episodes that cannot be probed, or a pool of an
        agent that models nobody
    :raises crl.runs.run.RunError: when no checkpoint can be loaded
    """
    if episodes is not None and episodes < MIN_EPISODES:
        raise ProbeError(f"{episodes} episodes: at least {MIN_EPISODES}, so that two are left to report on")
    config = folder.config()
    model = load_model(folder)
    try:
        extractor = history_extractor(model)
        if extractor is not None:
            n = episodes or PARTNER_EPISODES
            return _probe_partners(folder, model, extractor, n, seed, out, supervised_updates, with_pictures, stage, pool)
        if pool is not None:
            raise ProbeError(f"pool={pool!r}: {config['agent']} models no others, so that there is no pool to choose from")
        episodes = episodes or EPISODES
        found = _choose(model, encoder)
        target = Path(out) if out is not None else folder.path / "probe" / f"step{model.num_timesteps:012d}"
        data = collect(model, config, episodes, seed, advance=stage("collecting episodes", episodes))
        fresh = _fresh(model, config, found.name, seed)
        augment = RandomShift(max(1, round(4 * data.images.shape[-1] / 84)))  # 4 at 84x84, as published
        representations = {"trained": found.encoder, "random": fresh}
        counted = _counted(data)
        if supervised_updates and (any(counted) or _labels(data)):
            representations["supervised"] = _supervised(fresh, data, counted, seed, supervised_updates, augment, stage)
        report = {
            "run": str(folder.path),
            "agent": config["agent"],
            "env": config["env"]["id"],
            "step": model.num_timesteps,
            "encoder": found.name,
            "features_dim": found.encoder.features_dim,
            "seed": seed,
            "episodes": episodes,
            "rows": len(data),
            "supervised_updates": supervised_updates,
            "states": data.names,
            "states_in_the_mean": [name for name, counts in zip(data.names, counted, strict=True) if counts],
            **measure(representations, data, seed, augment, stage),
        }
        report["folder"] = str(target)
        _write(report, target)
        shown: list[Path] = []
        if with_pictures:
            views = getattr(getattr(model, "replay_buffer", None), "augment", None) or augment
            shown = draw(representations, data, target, seed, views, stage)
        _to_tensorboard(report, shown, folder.path / "tensorboard", model.num_timesteps)
        return report
    finally:
        if model.env is not None:
            model.env.close()


def _probe_partners(
    folder: RunFolder,
    model: BaseAlgorithm,
    extractor: HistoryExtractor,
    episodes: int,
    seed: int,
    out: str | Path | None,
    supervised_updates: int,
    with_pictures: bool,
    stage: Stage,
    pool: str | None,
) -> dict[str, Any]:
    config = folder.config()
    if pool is not None:
        config["env"]["kwargs"]["pool"] = pool
    # newest probes are looked for in probe/: there, runs are compared
    own = "probe" if pool is None else f"probe_{pool}"
    target = Path(out) if out is not None else folder.path / own / f"step{model.num_timesteps:012d}"
    numbers, encoders, data = probe_partners(model, extractor, config, episodes, seed, supervised_updates, stage)
    report = {
        "run": str(folder.path),
        "agent": config["agent"],
        "env": config["env"]["id"],
        "step": model.num_timesteps,
        "encoder": "history",
        "features_dim": extractor.spec.embed_dim,
        "seed": seed,
        "episodes": episodes,
        "supervised_updates": supervised_updates,
        "pool": config["env"]["kwargs"].get("pool", "train"),
        **numbers,
        "folder": str(target),
    }
    _write(report, target)
    shown = draw_partner_pictures(encoders, data, target, seed) if with_pictures else []
    with _writer(folder.path / "tensorboard") as writer:
        for row in partner_rows(report):
            if row["what"] == "accuracy":
                name = f"probe/{row['ego']}_{row['of']}_after_{row['observations']}"
                writer.add_scalar(name, row["value"], model.num_timesteps)
        _add_pictures(writer, shown, model.num_timesteps)
    return report


def _choose(model: BaseAlgorithm, name: str | None) -> FoundEncoder:
    found = find_encoders(model)
    names = [item.name for item in found]
    if name is not None and name not in names:
        raise ProbeError(f"this agent has no encoder {name!r}: choose one of {', '.join(names)}")
    chosen = found[0] if name is None else found[names.index(name)]
    chosen.encoder.extractor.eval()
    return chosen


def _fresh(model: BaseAlgorithm, config: dict[str, Any], name: str, seed: int) -> ModelEncoder:
    """The encoder as the agent begins with it, under another seed."""
    recipe = {key: value for key, value in config.items() if key != "run"}
    assert model.env is not None
    other, _ = build(recipe, model.env, seed=seed, device=str(model.device))
    encoder = next(item.encoder for item in find_encoders(other) if item.name == name)
    encoder.extractor.eval()
    return encoder


def _counted(data: ProbeData) -> list[bool]:
    """Which states are worth asking for: those that vary and that an agent should know."""
    vary = varying(data.states, split_episodes(data.episodes))
    return [bool(v) and not name.startswith(NOT_COUNTED) for v, name in zip(vary, data.names, strict=True)]


def _supervised(
    fresh: ModelEncoder,
    data: ProbeData,
    counted: list[bool],
    seed: int,
    updates: int,
    augment: Augmentation,
    stage: Stage,
) -> ModelEncoder:
    truth = data.states[:, counted] if any(counted) else _labels(data)
    train, advance = split_episodes(data.episodes).train, stage("training the supervised ceiling", updates)
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        return fit_supervised(copy.deepcopy(fresh), data.images, truth, train, seed, updates, augment, advance=advance)


def _labels(data: ProbeData) -> dict[str, np.ndarray]:
    """Discrete variables that vary enough to be asked for, and are known in each part of the episodes."""
    split = split_episodes(data.episodes)
    known = {name: all(part.any() for part in known_parts(column, split)) for name, column in data.labels.items()}
    return {name: column for name, column in data.labels.items() if known[name] and entropy(column) > MIN_ENTROPY}


def measure(
    representations: dict[str, ModelEncoder], data: ProbeData, seed: int, augment: Augmentation, stage: Stage = silent
) -> dict[str, Any]:
    """
    All numbers. Probes are fitted to half of the episodes (their penalty to a quarter); everything that is reported is of the
    last quarter, which no encoder has seen either, the supervised one included.

    :param representations: encoders by name, ``"trained"``, ``"random"`` and perhaps ``"supervised"``
    :param data: of the probe's episodes
    :param seed: of negatives, augmentation and PCA
    :param augment: makes the two views that retrieval compares
    :param stage: see :data:`crl.runs.stages.Stage`
    :return: ``representations``: by name, and within ``probes`` by layer (``"conv"``, ``"output"``); ``gap_closed``: by layer,
        the share of the way from random to supervised that the trained encoder has gone
    """
    advance = stage("probing", len(representations) + 1)
    split = split_episodes(data.episodes)
    asked = varying(data.states, split)
    counted = np.array(_counted(data))
    found: dict[str, Any] = {}
    for name, encoder in representations.items():
        layers = {"conv": conv_features(encoder, data.images), "output": output_features(encoder, data.images)}
        found[name] = {
            "probes": {layer: _probe(part, data, asked, counted) for layer, part in layers.items()},
            **_shape(encoder, layers["output"][split.test], data, split.test, seed, augment),
        }
        advance()
    width = next(iter(representations.values())).features_dim
    found["pixel_pca"] = {"probes": {"output": _probe(pixel_pca(data.images, split.train, width, seed), data, asked, counted)}}
    advance()
    return {"representations": found, "gap_closed": _gap(found)}


def _probe(features: np.ndarray, data: ProbeData, asked: np.ndarray, counted: np.ndarray) -> dict[str, Any]:
    """R^2 by state, F1 by label, and their means; what cannot be asked is None."""
    result: dict[str, Any] = {"width": features.shape[1], "r2": None, "f1": None}
    if asked.any():
        r2 = np.full(len(asked), np.nan)
        r2[asked] = ridge_r2(features, data.states[:, asked], data.episodes)
        result["r2_by_state"] = {n: None if np.isnan(v) else float(v) for n, v in zip(data.names, r2, strict=True)}
        result["r2"] = float(r2[counted].mean()) if counted.any() else None
    labels = _labels(data)
    if labels:
        scores = {name: score_labels(features, column, data.episodes) for name, column in labels.items()}
        for kind in LabelScore._fields:
            result[f"{kind}_by_label"] = {name: getattr(score, kind) for name, score in scores.items()}
        result["f1"] = float(np.mean(list(result["f1_by_label"].values())))
    return result


def _shape(
    encoder: ModelEncoder, z: np.ndarray, data: ProbeData, rows: np.ndarray, seed: int, augment: Augmentation
) -> dict[str, Any]:
    """Retrieval, rank and spread of the output on the test episodes."""
    images = data.images[th.as_tensor(rows)]
    generator = th.Generator().manual_seed(seed)
    query, key = (output_features(encoder, augment(images, generator)) for _ in range(2))
    retrieval = retrieval_top1(query, key, data.episodes[rows], np.random.default_rng(seed))
    std = z.std(0)
    return {
        "retrieval": retrieval._asdict(),
        "effective_rank": float(effective_rank(th.as_tensor(z))),
        "std_mean": float(std.mean()),
        "std_min": float(std.min()),
        "collapsed_dimensions": int((std <= _COLLAPSED * std.max()).sum()),
        "std": [float(value) for value in std],
    }


def _gap(found: dict[str, Any]) -> dict[str, float]:
    """By layer; empty without a supervised encoder, or where that is no better than the random one."""
    if "supervised" not in found:
        return {}
    gaps = {}
    # what the supervised encoder was taught: states where there are any, else labels
    measure_of = "f1" if found["supervised"]["probes"]["output"]["r2"] is None else "r2"
    for layer in ("conv", "output"):
        trained, random, best = (found[name]["probes"][layer][measure_of] for name in ("trained", "random", "supervised"))
        if best > max(random, 0.0):
            gaps[layer] = (trained - random) / (best - random)
    return gaps


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A report as a table, one row for each representation and layer."""
    if "identification" in report:
        return partner_rows(report)
    rows = []
    for name, found in report["representations"].items():
        for layer, probe in found["probes"].items():
            row = {"representation": name, "layer": layer, "width": probe["width"], "r2": probe["r2"], "f1": probe["f1"]}
            if layer == "output" and "retrieval" in found:
                row |= {"top1": found["retrieval"]["top1"], "chance": found["retrieval"]["chance"]}
                row |= {key: found[key] for key in ("effective_rank", "std_mean", "std_min", "collapsed_dimensions")}
            row |= {f"r2_{state}": value for state, value in probe.get("r2_by_state", {}).items()}
            for kind in LabelScore._fields:
                row |= {f"{kind}_{label}": value for label, value in probe.get(f"{kind}_by_label", {}).items()}
            rows.append(row)
    return rows


def _write(report: dict[str, Any], target: Path) -> None:
    rows = rows_of(report)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(dict.fromkeys(key for row in rows for key in row)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_atomically(target / "probe.csv", table.getvalue().encode())
        write_atomically(target / "probe.json", (json.dumps(report, indent=2) + "\n").encode())
    except OSError as error:
        raise ProbeError(f"cannot write to {target} ({error.strerror}): choose another --out") from error


def draw(
    representations: dict[str, ModelEncoder],
    data: ProbeData,
    target: Path,
    seed: int,
    augment: Augmentation,
    stage: Stage = silent,
) -> list[Path]:
    """
    Pictures of the test episodes.

    :param representations: encoders by name; ``"trained"`` is shown, others beside it
    :param data: of the probe's episodes
    :param target: folder to write to
    :param seed: of everything that is drawn at random
    :param augment: of the views that are shown
    :param stage: see :data:`crl.runs.stages.Stage`
    :return: the files
    """
    advance = stage("drawing", 5)
    test = split_episodes(data.episodes).test
    part = ProbeData(data.images[th.as_tensor(test)], data.states[test], data.names, data.episodes[test], data.times[test], {})
    rng, generator = np.random.default_rng(seed), th.Generator().manual_seed(seed)
    some = part.images[th.as_tensor(np.sort(rng.choice(len(part), min(5, len(part)), replace=False)))]
    paths = [pictures.draw_views(some, [augment(some, generator) for _ in range(3)], target / "views.png")]
    advance()
    z = {name: output_features(encoder, part.images) for name, encoder in representations.items()}
    two = part.episodes <= np.unique(part.episodes)[:2].max()
    paths.append(
        pictures.draw_similarity({n: rows[two] for n, rows in z.items()}, part.episodes[two], target / "similarity.png")
    )
    advance()
    paths.append(pictures.draw_embedding(z["trained"], part, target / "embedding.png", seed))
    advance()
    paths.append(pictures.draw_neighbours(z["trained"], part, target / "neighbours.png", seed))
    advance()
    maps = {}
    for name, encoder in representations.items():
        device = next(iter(encoder.parameters())).device
        maps[name] = pictures.saliency(encoder, some.to(device), th.as_tensor(z[name].mean(0), device=device))
    paths.append(pictures.draw_saliency(some, maps, target / "saliency.png"))
    advance()
    return paths


def _to_tensorboard(report: dict[str, Any], shown: list[Path], folder: Path, step: int) -> None:
    with _writer(folder) as writer:
        for row in rows_of(report):
            for key in ("r2", "f1", "top1", "effective_rank", "std_mean"):
                if row.get(key) is not None:
                    writer.add_scalar(f"probe/{row['representation']}_{row['layer']}_{key}", row[key], step)
        for layer, share in report["gap_closed"].items():
            writer.add_scalar(f"probe/gap_closed_{layer}", share, step)
        _add_pictures(writer, shown, step)


def _add_pictures(writer: SummaryWriter, shown: list[Path], step: int) -> None:
    for path in shown:
        from PIL import Image

        with Image.open(path) as image:
            writer.add_image(f"probe/{path.stem}", np.asarray(image.convert("RGB")), step, dataformats="HWC")


@contextmanager
def _writer(folder: Path) -> Iterator[SummaryWriter]:
    writer = SummaryWriter(log_dir=str(folder))
    try:
        yield writer
    finally:
        writer.close()


def table(report: dict[str, Any]) -> str:
    """The numbers that matter, as text."""
    if "identification" in report:
        return partner_table(report)
    asked = "F1 of labels" if report["representations"]["trained"]["probes"]["output"]["f1"] is not None else "R2 of state"
    lines = [f"{'':22}{asked:>12}{'top-1':>8}{'eff. rank':>11}{'mean std':>10}"]
    for row in rows_of(report):
        cells = [row.get("r2") if row.get("f1") is None else row.get("f1"), row.get("top1")]
        cells += [row.get("effective_rank"), row.get("std_mean")]
        text = ["" if value is None else f"{value:.3f}" for value in cells]
        lines.append(f"{row['representation'] + ' ' + row['layer']:22}{text[0]:>12}{text[1]:>8}{text[2]:>11}{text[3]:>10}")
    chance = next(iter(report["representations"].values()))["retrieval"]
    lines.append(f"top-1 of {chance['negatives'] + 1} candidates, chance {chance['chance']:.3f}")
    for layer, share in report["gap_closed"].items():
        lines.append(f"way from random to supervised, {layer}: {100 * share:.0f} %")
    return "\n".join(lines)
