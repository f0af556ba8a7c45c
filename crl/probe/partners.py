"""
``crl probe`` of agents that model others: how soon the encoder of histories tells who the partner is, beside random encoders
of the same architecture and one trained on the ids; and the return with each partner. Of agents that see images, all three
look at the output of the agent's own CNN: what is compared is the encoder of histories.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from crl import intervals
from crl.history import HistoryExtractor
from crl.networks.history_encoder import HistoryEncoder
from crl.probe.labels import linear_hits
from crl.probe.linear import split_episodes
from crl.probe.partner_data import Ego, PartnerData, collect_with_partners, embeddings, fit_to_partners
from crl.probe.pictures import draw_partners
from crl.runs.stages import Stage, silent

#: by name; of some kinds there are several
Encoders = dict[str, list[HistoryEncoder]]

#: observations seen when the encoder is asked
MOMENTS = (1, 2, 3, 5, 10, 20, 50)
#: who acts in the episodes: the agent, and, so that all agents are asked about the same, random actions
EGOS: tuple[Ego, ...] = ("agent", "random")
#: encoders as they are drawn at first, whose mean the trained one is compared with: by luck, one of them can be better than
#: another by as much as training brings
RANDOM_ENCODERS = 8
#: moments of the picture
_SHOWN = (1, 5, 20, 50)


def probe_partners(
    model: BaseAlgorithm,
    extractor: HistoryExtractor,
    config: dict[str, Any],
    episodes: int,
    seed: int,
    supervised_updates: int,
    stage: Stage = silent,
) -> tuple[dict[str, Any], Encoders, PartnerData]:
    """
    :param model: the agent
    :param extractor: its own
    :param config: of the run
    :param episodes: for each way of acting; half are fitted to, a quarter chooses penalties, a quarter is reported
    :param seed: of episodes, random encoders, supervised training and resamples
    :param supervised_updates: of the supervised encoder; 0 leaves it out
    :param stage: see :data:`crl.runs.stages.Stage`
    :return: numbers by way of acting (``identification``) and by partner (``returns``), encoders by name (``"trained"`` where
        the agent has one, ``"random"``, ``"supervised"``), and the agent's own episodes, for pictures
    """
    found: dict[str, Any] = {}
    kept: tuple[Encoders, PartnerData] | None = None
    for ego in EGOS:
        data = collect_with_partners(model, config, episodes, ego, seed, stage(f"episodes of the {ego} ego", episodes))
        encoders = _encoders(extractor, data, seed, supervised_updates, ego, stage)
        found[ego] = identify(encoders, data, seed, stage)
        kept = kept or (encoders, data)
    assert kept is not None
    encoders, data = kept
    return {"identification": found, "returns": returns_by_partner(data, seed)}, encoders, data


def _encoders(extractor: HistoryExtractor, data: PartnerData, seed: int, updates: int, ego: str, stage: Stage) -> Encoders:
    rows = extractor.rows
    device = next(iter(extractor.encoder.parameters())).device if extractor.encoder is not None else th.device("cpu")
    found: Encoders = {} if extractor.encoder is None else {"trained": [extractor.encoder]}

    def fresh(n: int) -> list[HistoryEncoder]:
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            return [extractor.spec.encoder(rows).to(device).requires_grad_(False) for _ in range(n)]

    found["random"] = fresh(RANDOM_ENCODERS)
    if updates:
        advance = stage(f"training the supervised ceiling, {ego} ego", updates)
        found["supervised"] = [fit_to_partners(fresh(1)[0], data, seed, updates, advance=advance)]
    return found


def identify(encoders: Encoders, data: PartnerData, seed: int, stage: Stage = silent) -> dict[str, Any]:
    """
    A linear probe of the partner's id at each moment, on episodes that no probe was fitted to. Episodes that are over before
    a moment count with all that they had: every moment is asked of the same episodes.

    :param encoders: by name; of several of one name, what is told is their mean
    :param data: episodes
    :param seed: of resamples
    :param stage: see :data:`crl.runs.stages.Stage`
    :return: ``chance``, ``majority`` (the most frequent partner's share), ``test_episodes``, ``lasting`` (share of episodes
        with so many observations), ``encoders`` (how many of each name), ``accuracy`` by encoder and moment and
        ``trained_minus_random`` by moment, each with ``value``, ``low``, ``high``; and ``mean_accuracy`` by encoder
    """
    episodes = np.arange(len(data))
    rng = np.random.default_rng(seed)
    advance = stage("probing", len(MOMENTS))
    # (encoders, test episodes) each
    hits: dict[str, dict[int, np.ndarray]] = {name: {} for name in encoders}
    for moment in MOMENTS:
        for name, several in encoders.items():
            told = [linear_hits(embeddings(encoder, data, moment), data.partners, episodes) for encoder in several]
            hits[name][moment] = np.stack(told)
        advance()
    # the most frequent of the training episodes, as it does in the test episodes
    split = split_episodes(episodes)
    ids, counts = np.unique(data.partners[split.train], return_counts=True)
    found: dict[str, Any] = {
        "chance": 1.0 / len(ids),
        "majority": float((data.partners[split.test] == ids[counts.argmax()]).mean()),
        "test_episodes": int(split.test.sum()),
        "lasting": {moment: float((data.lengths >= moment).mean()) for moment in MOMENTS},
        "encoders": {name: len(several) for name, several in encoders.items()},
        "accuracy": {
            name: {moment: _accuracy(h, rng)._asdict() for moment, h in of_moment.items()} for name, of_moment in hits.items()
        },
        "mean_accuracy": {name: float(np.mean([h.mean() for h in of_moment.values()])) for name, of_moment in hits.items()},
    }
    if "trained" in hits:
        differences = {moment: hits["trained"][moment].astype(float) - hits["random"][moment] for moment in MOMENTS}
        found["trained_minus_random"] = {
            moment: intervals.mean_of_draws(difference, rng)._asdict() for moment, difference in differences.items()
        }
    return found


def _accuracy(hits: np.ndarray, rng: np.random.Generator) -> intervals.Estimate:
    return intervals.share(hits[0]) if len(hits) == 1 else intervals.mean_of_draws(hits, rng)


def returns_by_partner(data: PartnerData, seed: int) -> dict[str, Any]:
    """
    :param data: of the agent's own episodes
    :param seed: of resamples
    :return: by name, ``episodes``, ``value``, ``low``, ``high``; and ``all``, of all of them
    """
    rng = np.random.default_rng(seed)
    parts = {data.names[partner]: data.partners == partner for partner in np.unique(data.partners)}
    parts["all"] = np.ones(len(data), dtype=bool)
    return {
        name: {"episodes": int(rows.sum()), **intervals.mean(data.returns[rows], rng)._asdict()}
        for name, rows in parts.items()
    }


def partner_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A report as a table: a row for each way of acting, encoder and moment, then one for each partner's return."""
    rows = []
    for ego, found in report["identification"].items():
        for name, of_moment in found["accuracy"].items():
            for moment, accuracy in of_moment.items():
                rows.append({"what": "accuracy", "ego": ego, "of": name, "observations": moment, **accuracy})
        for moment, difference in found.get("trained_minus_random", {}).items():
            rows.append({"what": "difference", "ego": ego, "of": "trained - random", "observations": moment, **difference})
        rows.append({"what": "chance", "ego": ego, "value": found["chance"]})
    for partner, value in report["returns"].items():
        numbers = {key: value[key] for key in ("value", "low", "high")}
        rows.append({"what": "return", "ego": "agent", "of": partner, "episodes": value["episodes"], **numbers})
    return rows


def partner_table(report: dict[str, Any]) -> str:
    """The numbers that matter, as text."""
    lines = []
    for ego, found in report["identification"].items():
        lines.append(f"partner told after so many observations, {ego} ego, {found['test_episodes']} test episodes")
        lines.append(f"{'':18}" + "".join(f"{moment:>18}" for moment in MOMENTS) + f"{'mean':>8}")
        for name, of_moment in found["accuracy"].items():
            cells = [f"{a['value']:.2f} {a['low']:.2f}-{a['high']:.2f}" for a in of_moment.values()]
            lines.append(f"{name:18}" + "".join(f"{c:>18}" for c in cells) + f"{found['mean_accuracy'][name]:>8.3f}")
        for moment_row in [found["trained_minus_random"]] if "trained_minus_random" in found else []:
            cells = [f"{d['value']:+.2f} {d['low']:+.2f},{d['high']:+.2f}" for d in moment_row.values()]
            lines.append(f"{'trained - random':18}" + "".join(f"{c:>18}" for c in cells))
        several = found.get("encoders", {}).get("random", 1)
        lines.append(f"chance {found['chance']:.3f}" + (f"; random: mean of {several} encoders" if several > 1 else ""))
    lines.append(f"{'return with':26}{'episodes':>9}{'mean':>9}  95 % interval")
    for partner, value in report["returns"].items():
        lines.append(f"{partner:26}{value['episodes']:>9}{value['value']:>9.3f}  {value['low']:.3f} to {value['high']:.3f}")
    return "\n".join(lines)


def draw_partner_pictures(encoders: Encoders, data: PartnerData, target: Path, seed: int) -> list[Path]:
    """
    Embeddings of the test episodes by partner, over time.

    :param encoders: by name; the first of each is shown
    :param data: of the agent's own episodes
    :param target: folder to write to
    :param seed: of t-SNE
    """
    test = split_episodes(np.arange(len(data))).test
    shown = {
        name: {moment: embeddings(several[0], data, moment)[test] for moment in _SHOWN} for name, several in encoders.items()
    }
    return [draw_partners(shown, data.partners[test], data.names, target / "partners.png", seed)]
