"""Held-out episodes of an agent with others, and embeddings of their beginnings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from crl.contract import EpisodeBatch
from crl.envs import make_vec_env
from crl.history import HistoryVecEnv, history_extractor, seen_by
from crl.history.layout import batch_of_one
from crl.networks.history_encoder import HistoryEncoder
from crl.objectives.history_objective import PartnerSpaces
from crl.objectives.partner_id import PartnerId
from crl.probe.episodes import PROBE_SEED, ProbeError
from crl.probe.linear import split_episodes
from crl.replay.episode_store import EpisodeStore
from crl.runs.state import capture_random, restore_random

_ENVS = 16
#: episodes that are encoded at a time
_BATCH = 256

Ego = Literal["agent", "random"]


@dataclass
class PartnerData:
    """
    :param batch: whole episodes, with ``partner_id``; of an agent that sees images, with what its CNN makes of them
    :param lengths: ``(n,)`` observations of each, the last one included
    :param returns: ``(n,)``
    :param partners: ``(n,)`` ids
    :param names: of all ids
    """

    batch: EpisodeBatch
    lengths: np.ndarray
    returns: np.ndarray
    partners: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.partners)


def collect_with_partners(
    model: BaseAlgorithm,
    config: dict[str, Any],
    episodes: int,
    ego: Ego,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> PartnerData:
    """
    Episodes with partners as they are drawn, none of them trained on. Each parallel environment plays its share: the first
    ones to end would be the short ones.

    :param model: that sees histories
    :param config: of the run; ``env`` and ``train.eval_deterministic`` are read
    :param episodes: how many
    :param ego: ``"agent"``: the agent acts, as in its evaluations; ``"random"``: uniform actions, the same for all agents
    :param seed: of episodes and actions
    :param advance: called after each episode
    :raises ProbeError: for an environment without partners
    """
    n_envs = min(_ENVS, episodes)
    plain = make_vec_env(
        config["env"]["id"], seed=PROBE_SEED + seed, n_envs=n_envs, evaluation=True, **config["env"]["kwargs"]
    )
    env: HistoryVecEnv = seen_by(model, plain)
    window, extractor = env.window, history_extractor(model)
    see = extractor.see if extractor is not None and extractor.of_images else None

    def vectors(seen: Any) -> np.ndarray:
        raw = window.raw(seen)
        return raw if see is None else np.asarray(see(th.as_tensor(raw)).cpu().numpy())

    if ego == "random":
        env.bind(None)  # nobody looks
    quota = [episodes // n_envs + (index < episodes % n_envs) for index in range(n_envs)]
    stores = [EpisodeStore(share, 1, told=("partner_id",)) for share in quota]
    rng = np.random.default_rng(np.random.SeedSequence((PROBE_SEED, seed)))
    deterministic = config.get("train", {}).get("eval_deterministic", True)
    random_state = capture_random(model)
    try:
        # where actions are drawn, by the same numbers each time
        th.manual_seed(PROBE_SEED + seed)
        names = [str(name) for name in env.get_attr("pool_names")[0]]
        obs, state, begins = env.reset(), None, np.ones(n_envs, dtype=bool)
        infos: Any = env.unwrapped.reset_infos
        if "partner_id" not in infos[0]:
            raise ProbeError(f"{config['env']['id']} does not give info['partner_id']: there is nobody to identify")
        kept = vectors(obs)
        for index in range(n_envs):
            stores[index].begin(0, kept[index].copy(), infos[index])
        while any(store.n_added < store.size for store in stores):
            if ego == "agent":
                told: Any = dict(state=state, episode_start=begins, deterministic=deterministic)
                actions, state = model.predict(obs, **told)  # type: ignore[arg-type]
            else:
                actions = np.array([_draw(env.action_space, rng) for _ in range(n_envs)])
            obs, rewards, begins, infos = env.step(actions)
            kept, done = vectors(obs), window.rows.stored_actions(actions)
            for index, store in enumerate(stores):
                if store.n_added == store.size:
                    continue
                over = bool(begins[index])
                last = infos[index]["terminal_observation"] if over else None
                led = kept[index] if last is None else vectors(batch_of_one(last))[0]
                store.add(0, done[index], float(rewards[index]), led.copy(), over, False, infos[index])
                if over:
                    advance()
                    store.begin(0, kept[index].copy(), env.unwrapped.reset_infos[index])
    finally:
        env.close()
        restore_random(model, random_state)
    return _join(stores, names)


def _draw(space: Any, rng: np.random.Generator) -> Any:
    """A uniform action from a generator of ours: the space's own is the training's."""
    if hasattr(space, "n"):
        return int(space.start) + int(rng.integers(space.n))
    return rng.uniform(space.low, space.high).astype(space.dtype)


def _join(stores: list[EpisodeStore], names: list[str]) -> PartnerData:
    """One store, in which the environments take turns, so that no part of the split holds later episodes than another."""
    joined = EpisodeStore(sum(store.size for store in stores), 1, told=("partner_id",))
    for place in range(max(store.size for store in stores)):
        for store in stores:
            if place >= store.size:
                continue
            n = int(store.lengths[place])
            told = {"partner_id": store.arrays["partner_id"][place, 0]}
            joined.begin(0, store.arrays["obs"][place, 0], told)
            for t in range(n):
                action, reward = store.arrays["actions"][place, t], float(store.arrays["rewards"][place, t])
                joined.add(0, action, reward, store.arrays["obs"][place, t + 1], t + 1 == n, False, told)
    batch = joined.episodes(np.arange(len(joined)))
    assert batch.partner_id is not None
    returns = (batch.rewards * batch.mask).sum(1).numpy()
    return PartnerData(batch, joined.lengths + 1, returns, batch.partner_id.numpy(), names)


@th.no_grad()
def embeddings(encoder: HistoryEncoder, data: PartnerData, seen: int) -> np.ndarray:
    """
    :param encoder: of histories; not changed
    :param data: episodes
    :param seen: observations that are encoded, from the first on; of shorter episodes all
    :return: ``(n, embed_dim)`` float32, as an agent acts on them
    """
    device = encoder.output.weight.device
    lengths = th.as_tensor(np.minimum(data.lengths, seen), device=device)
    rows = encoder.rows(data.batch.obs[:, :seen], data.batch.actions[:, : seen - 1]).to(device)
    parts = [encoder.encode_prefixes(rows[i : i + _BATCH], lengths[i : i + _BATCH]) for i in range(0, len(rows), _BATCH)]
    return np.asarray(th.cat(parts).cpu().numpy())


def fit_to_partners(
    encoder: HistoryEncoder,
    data: PartnerData,
    seed: int,
    updates: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    advance: Callable[[], None] = lambda: None,
) -> HistoryEncoder:
    """
    Train an encoder to tell who the partner is, on all but the test episodes: the ceiling of what its architecture finds out.

    :param encoder: freshly initialised; trained in place
    :param data: episodes
    :param seed: of batches and moments
    :param updates: of Adam
    :param batch_size: episodes of an update
    :param learning_rate: of Adam
    :param advance: called after each update
    :return: the encoder, without gradient
    """
    objective = PartnerId()
    device = encoder.output.weight.device
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        objective.build(encoder, PartnerSpaces(len(data.names)))
    optimizer = th.optim.Adam([p for p in objective.parameters() if p.requires_grad], learning_rate)
    rng, generator = np.random.default_rng(seed), th.Generator(device).manual_seed(seed)
    train = np.flatnonzero(split_episodes(np.arange(len(data))).train)
    for _ in range(updates):
        chosen = th.as_tensor(rng.choice(train, min(batch_size, len(train)), replace=False))
        loss, _ = objective.loss(_some(data.batch, chosen, device, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance()
    return encoder.requires_grad_(False)


def _some(batch: EpisodeBatch, chosen: th.Tensor, device: th.device, generator: th.Generator) -> EpisodeBatch:
    assert batch.partner_id is not None
    found = EpisodeBatch(
        batch.obs[chosen].to(device),
        batch.actions[chosen].to(device),
        batch.rewards[chosen].to(device),
        batch.terminated[chosen].to(device),
        batch.truncated[chosen].to(device),
        batch.mask[chosen].to(device),
        generator=generator,
    )
    found.partner_id = batch.partner_id[chosen].to(device)
    return found
