"""Agents that model others: what recipes resolve to, controls, environments they refuse, runs that resume and evaluate."""

import json

import numpy as np
import pytest
import yaml
from stable_baselines3.common.callbacks import BaseCallback

from crl.agents import build, resolve
from crl.agents.fields import ConfigError, FieldValueError
from crl.agents.recipes import RECIPES, flatten
from crl.callbacks.agent_model_callback import AgentModelCallback
from crl.envs import make_env, make_vec_env
from crl.history import history_extractor, seen_by
from crl.runs.folder import RunFolder, Table
from crl.runs.run import Stopped, new_run, resume, train

LBF, TAG, SPREAD = "lbf/8x8-2p-2f", "mpe/simple_tag", "mpe/simple_spread"
ARMS = {
    "ppo-liam": "liam",
    "ppo-cbam": "cbam",
    "ppo-label-positive": "label_positive",
    "ppo-random-model": "random",
    "ppo-history": "rl",
    "ppo-nam": "none",
}
SMALL = {
    "algorithm.n_steps": 16,
    "algorithm.batch_size": 32,
    "algorithm.n_epochs": 1,
    "algorithm.net_arch": [8],
    "history.width": 8,
    "history.heads": 2,
    "history.layers": 1,
    "model.interval": 32,
    "model.min_episodes": 2,
    "model.min_steps": 3,
    "model.batch_size": 8,
    "train.n_envs": 4,
    "train.eval_every": 128,
    "train.eval_episodes": 4,
    "train.eval_envs": 2,
}
PIXELS = {
    "env.kwargs.pixels": True,
    "env.kwargs.size": 16,
    "history.image_encoder": "pixel",
    "history.image_features": 8,
    "history.image_filters": 4,
    "history.image_layers": 2,
}


def difference(a, b):
    a, b = flatten(a), flatten(b)
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)} - {"agent"}


@pytest.mark.parametrize("env_id", [LBF, TAG, SPREAD])
def test_arms_differ_in_exactly_one_field(env_id):
    for name, kind in ARMS.items():
        config = resolve(name, env_id)
        assert difference(config, resolve("ppo-clam", env_id)) == {"model.kind"} and config["model"]["kind"] == kind
    assert difference(resolve("ppo-oracle", env_id), resolve("ppo-nam", env_id)) == {"env.kwargs.oracle"}
    assert difference(resolve("recurrent-ppo-clam", env_id), resolve("ppo-clam", env_id)) == {"algorithm.name"}
    a2c = difference(resolve("a2c-clam", env_id), resolve("ppo-clam", env_id))
    assert a2c and all(path.startswith("algorithm.") for path in a2c)


@pytest.mark.parametrize("env_id", ["dmc/cartpole-swingup", "toy/reach", "atari/Pong", "gym/Pendulum-v1", "mpe/simple"])
def test_without_a_pool_there_is_nobody_to_model(env_id):
    with pytest.raises(ConfigError, match=r"no pool.*lbf/<id>.*mpe/simple_tag"):
        resolve("ppo-clam", env_id)


def test_an_environment_that_turns_out_to_have_no_pool():
    config = resolve("ppo-clam", "Anything-v0")
    with pytest.raises(ConfigError, match="no pool"):
        build(config, make_vec_env("toy/reach-discrete", n_envs=16), seed=0, device="cpu")


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"history.columns": ["enemy*"], "history.others": []}, "columns are .*partner0_row"),
        ({"history.others": ["enemy*"]}, "columns are .*partner0_row"),
        ({"history.image_encoder": "nature", "history.ego": None, "history.others": [], "history.things": []}, "set none"),
    ],
)
def test_what_only_the_environment_can_tell(fields, words):
    config = resolve("ppo-clam", LBF, {**SMALL, **fields})
    kwargs = config["env"]["kwargs"]
    with pytest.raises(ConfigError, match=words):
        build(config, make_vec_env(LBF, n_envs=4, **kwargs), seed=0, device="cpu")


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"algorithm.name": "a2c"}, "batch_size=none"),
        ({"algorithm.batch_size": None}, "a number"),
        ({"algorithm.batch_size": 9999}, "larger than a rollout"),
        ({"history.width": 30}, "multiple"),
        ({"history.others": []}, "nothing is left"),
        ({"history.ego": None}, "set history.ego"),
        ({"model.min_crop": 49}, "longer"),
        ({"model.store_size": 8}, "room"),
        ({"model.kind": "clan"}, "clam"),
    ],
)
def test_wrong_values(fields, words):
    with pytest.raises(FieldValueError, match=words):
        resolve("ppo-clam", LBF, fields)


def test_what_pixels_change():
    """Explicit in the configuration: no columns, a CNN, fewer episodes; and arms still differ in one field."""
    seen = {"env.kwargs.pixels": True}
    for env_id in (LBF, TAG):
        config, plain = (resolve("ppo-clam", env_id, overrides) for overrides in (seen, {}))
        assert config["history"]["image_encoder"] == "nature" and plain["history"]["image_encoder"] is None
        assert not any(config["history"][name] for name in ("columns", "differences", "ego", "others", "things"))
        assert config["model"]["batch_size"] == 64 and config["model"]["store_size"] == 500
        assert difference(config, plain) <= {"env.kwargs.pixels", "algorithm.n_epochs"} | {
            path for path in flatten(config) if path.startswith(("history.", "model."))
        }
        for name, kind in ARMS.items():
            if kind != "rl":
                assert difference(resolve(name, env_id, seen), config) == {"model.kind"}
    assert resolve("ppo-clam", LBF, {"env.kwargs.pixels": "true", "model.batch_size": "32"})["model"]["batch_size"] == 32
    assert resolve("ppo-clam", LBF, {"env.kwargs.pixels": False})["history"] == resolve("ppo-clam", LBF)["history"]
    assert resolve("a2c-clam", LBF, seen)["algorithm"]["n_epochs"] is None


@pytest.mark.parametrize(
    "agent, fields, words",
    [
        ("ppo-history", {}, "model.kind=rl.*another model.kind"),
        ("ppo-clam", {"model.way": "history"}, "model.way=embedding"),
        ("ppo-clam", {"history.columns": "partner*"}, "no columns"),
        ("ppo-clam", {"history.differences": 1.0}, "no columns"),
        ("ppo-clam", {"history.image_encoder": None}, "need nature"),
        ("ppo-clam", {"history.image_layers": 2}, "fixed body"),
    ],
)
def test_wrong_values_with_pixels(agent, fields, words):
    with pytest.raises(FieldValueError, match=words):
        resolve(agent, LBF, {"env.kwargs.pixels": True, **fields})


def test_images_without_the_option_are_seen_by_the_environment_alone():
    """An environment that shows pictures by itself."""
    config = resolve("ppo-clam", LBF, SMALL)
    with pytest.raises(ConfigError, match=r"history.image_encoder=nature, and no columns"):
        build(config, make_vec_env(LBF, n_envs=4, pixels=True, size=16), seed=0, device="cpu")


@pytest.mark.parametrize("agent", ["ppo-clam", "ppo-liam", "ppo-oracle", "recurrent-ppo-clam"])
def test_arms_learn_and_act_from_pixels(agent):
    config = resolve(agent, LBF, {**SMALL, **PIXELS, "env.kwargs.time_limit": 12, "env.kwargs.n_stack": 2})
    env = make_vec_env(LBF, n_envs=4, **config["env"]["kwargs"])
    model, (callback,) = build(config, env, seed=0, device="cpu")
    model.learn(4 * 12 + 64, callback=callback)
    assert (callback.n_updates > 0) == (agent != "ppo-oracle")
    one = seen_by(model, make_env(LBF, seed=0, **config["env"]["kwargs"]))
    obs, _ = one.reset()
    assert one.observation_space.contains(obs) and obs["image"].shape == (6, 16, 16)
    assert model.predict(obs)[0] in range(6) and ("partner" in obs) == (agent == "ppo-oracle")
    if callback.store is not None:
        assert callback.store.arrays["obs"].shape[2:] == (3, 16, 16), "each frame once"
        assert f"repr/{callback.objective.name}_effective_rank" in model.logger.name_to_value


@pytest.mark.parametrize(
    "agent", [name for name in RECIPES if name == "ppo-clam" or RECIPES[name].parent in ("ppo-clam", "ppo-nam")]
)
def test_every_arm_learns_and_acts(agent):
    overrides = dict(SMALL)
    if agent == "a2c-clam":
        overrides |= {"algorithm.batch_size": None, "algorithm.n_epochs": None}
    config = resolve(agent, LBF, overrides)
    env = make_vec_env(LBF, n_envs=4, **config["env"]["kwargs"])
    model, callbacks = build(config, env, seed=0, device="cpu")
    model.learn(4 * 50 + 64, callback=callbacks)
    (callback,) = callbacks
    assert isinstance(callback, AgentModelCallback)
    assert (callback.n_updates > 0) == (config["model"]["kind"] not in ("random", "rl", "none"))
    extractor = history_extractor(model)
    assert (extractor.encoder is None) == (config["model"]["kind"] == "none")
    one = seen_by(model, make_env(LBF, seed=0, **config["env"]["kwargs"]))
    obs, _ = one.reset()
    if config["model"]["kind"] == "none":
        assert (obs[-20:] == 0).all(), "as many inputs as the others"
    elif config["model"]["kind"] != "rl":
        assert np.linalg.norm(obs[-20:]) == pytest.approx(1, abs=1e-5)
    assert one.observation_space.contains(obs) and model.predict(obs)[0] in range(6)


def test_lbf_keeps_no_fingerprint():
    """Rows hold nothing that is constant in an episode: relations and steps of the partner, and the ego's own actions."""
    config = resolve("ppo-clam", LBF, SMALL)
    model, _ = build(config, make_vec_env(LBF, n_envs=4), seed=0, device="cpu")
    rows = model.env.window.rows
    assert rows.columns == [] and (rows.ego, rows.others, rows.things) == ([6, 7], [9, 10], [0, 1, 3, 4])
    assert rows.dim == 2 + 2 + 2 + 6


OF_A2C = {"algorithm.batch_size": None, "algorithm.n_epochs": None}


@pytest.mark.parametrize(
    "agent, env_id, fields",
    [
        ("ppo-clam", LBF, {}),
        ("ppo-clam", LBF, PIXELS),
        ("a2c-clam", LBF, OF_A2C),
        ("ppo-liam", TAG, {}),
        pytest.param("recurrent-ppo-clam", LBF, {}, marks=pytest.mark.slow),
        pytest.param("ppo-history", LBF, {}, marks=pytest.mark.slow),
        pytest.param("ppo-random-model", LBF, PIXELS, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(agent, env_id, fields, tmp_path):
    paths = []
    for name, pause in (("whole", None), ("halves", 192)):
        folder = new_run(
            agent, env_id, {**SMALL, **fields}, seed=3, out=tmp_path / name, steps=384, device="cpu", checkpoint_every=64
        )
        try:
            train(folder, show_progress=False, pause_at=pause)
        except Stopped:
            resume(RunFolder(tmp_path / name), show_progress=False)
        paths.append(folder.path)
    one, two = (json.loads((path / "summary.json").read_text()) for path in paths)
    assert one["state"] == two["state"] == "finished"
    assert one["weights_sha256"] == two["weights_sha256"]
    tables = [[{k: v for k, v in row.items() if k != "seconds"} for row in Table(p / "eval.csv").rows()] for p in paths]
    assert tables[0] == tables[1] and any(key.startswith("partner") for key in tables[0][0])
    assert yaml.safe_load((paths[0] / "config.yaml").read_text())["model"]["min_episodes"] == 2


def test_relative_observations_give_the_same_rows():
    """Places as seen from the ego, in parts of the field's side, against lbforaging's own: the history does not notice."""
    rng, windows, gone = np.random.default_rng(0), {}, 0
    for relative in (False, True):
        config = resolve("ppo-nam", "lbf/7x7-2p-2f", {**SMALL, "env.kwargs.relative": relative})
        env = make_vec_env(config["env"]["id"], seed=3, n_envs=2, **config["env"]["kwargs"])
        model, _ = build(config, env, seed=0, device="cpu")
        windows[relative] = model.get_env(), model.get_env().window
        model.get_env().reset()
    for _ in range(150):
        actions = rng.integers(6, size=2)
        for env, _ in windows.values():
            env.step(actions)
        plain, seen = (window for _, window in windows.values())
        assert (plain.lengths == seen.lengths).all()
        np.testing.assert_allclose(plain.x, seen.x, atol=1e-5)
        gone += int((plain.x[..., 4:6] == 2.0).sum())
    assert gone > 0, "a food that is gone, and hence far away, was among them"


def test_partners_come_and_go_where_sight_is_limited():
    """Rows against the true state: the partner's place and step where it is in sight, and zeros where it is not."""
    config = resolve("ppo-nam", "lbf/2s-8x8-2p-2f", SMALL)
    assert config["env"]["kwargs"]["relative"] is True
    env = make_vec_env(config["env"]["id"], seed=3, n_envs=4, **config["env"]["kwargs"])
    model, _ = build(config, env, seed=0, device="cpu")
    histories = model.get_env()
    worlds = [one.unwrapped._env for one in histories.unwrapped.envs]
    histories.reset()
    rng, before, counts = np.random.default_rng(0), [None] * 4, [0, 0]
    for _ in range(200):
        window = histories.window
        for index, world in enumerate(worlds):
            ego, partner = (np.array(player.position) for player in world.players)
            near = bool(np.abs(partner - ego).max() <= 2)
            row = window.x[index, window.lengths[index] - 1] * 8  # scale is 1 / 8
            first = window.lengths[index] == 1
            assert row[:2] == pytest.approx(partner - ego if near else [0, 0], abs=1e-4)
            last = None if first else before[index]
            step = partner - last[0] if near and last is not None and last[1] else np.zeros(2)
            assert row[2:4] == pytest.approx(step, abs=1e-4)
            counts[near] += 1
            before[index] = (partner, near)
        histories.step(rng.integers(6, size=4))
    assert min(counts) > 50


@pytest.mark.parametrize("env_id", ["lbf/2s-8x8-2p-2f", "lbf/Foraging-2s-8x8-2p-2f-v3"])
def test_moving_windows_are_no_places(env_id):
    with pytest.raises(FieldValueError, match="env.kwargs.relative=true"):
        resolve("ppo-clam", env_id, {"env.kwargs.relative": False})
    fields = {"history.others": [], "history.ego": None, "history.things": [], "history.columns": "*"}
    assert resolve("ppo-clam", env_id, {"env.kwargs.relative": False, **fields})


@pytest.mark.parametrize("env_id", [TAG, SPREAD])
def test_rows_of_particles_are_those_of_the_world(env_id):
    """Steps and distances of the others, however the ego moves, where relations are kept."""
    relations = {
        "history.columns": [],
        "history.differences": 0.0,
        "history.ego": "ego_position",
        "history.others": ["partner*_from_ego"],
        "history.things": ["landmark*_from_ego"],
    }
    config = resolve("ppo-nam", env_id, {**SMALL, **(relations if env_id == TAG else {})})
    assert {path: flatten(config)[path] for path in relations} == relations
    model, _ = build(config, make_vec_env(env_id, seed=0, n_envs=4, **config["env"]["kwargs"]), seed=0, device="cpu")
    histories = model.get_env()
    worlds = [one.unwrapped for one in histories.unwrapped.envs]
    histories.reset()
    rng, before = np.random.default_rng(0), None
    for _ in range(30):
        places = [world._world() for world in worlds]
        rows = histories.window.x[np.arange(4), histories.window.lengths - 1]
        for row, now, last in zip(rows, places, before or [None] * 4, strict=True):
            for number, partner in enumerate(now.partners):
                part = row[number * (4 + len(now.landmarks)) :]
                assert part[:2] == pytest.approx(partner - now.ego, abs=1e-5)
                step = np.zeros(2) if last is None else partner - last.partners[number]
                assert part[2:4] == pytest.approx(step, abs=1e-5)
                distances = sorted(np.abs(partner - landmark).sum() for landmark in now.landmarks)
                assert part[4 : 4 + len(distances)] == pytest.approx(distances, abs=1e-5)
        before = [type(now)(*(np.copy(part) for part in vars(now).values())) for now in places]
        histories.step(rng.integers(5, size=4))


def test_a_predator_is_trained_as_its_task_was_screened():
    def trained(**options):
        fields = {"env.kwargs." + name: value for name, value in options.items()}
        algorithm = resolve("ppo-clam", TAG, fields)["algorithm"]
        return [algorithm[name] for name in ("learning_rate", "gamma", "reward_scale")]

    for seen in ({}, {"sight": 0.5}, {"pixels": True}):
        assert trained(role="predator", **seen) == [1e-3, 0.95, 0.1]
        assert trained(**seen) == trained(role="prey", **seen) == [3e-4, 0.99, 0.02]


def test_a_predator_keeps_what_the_prey_does():
    config = resolve("ppo-nam", TAG, {**SMALL, "env.kwargs.role": "predator"})
    model, _ = build(config, make_vec_env(TAG, seed=0, n_envs=2, **config["env"]["kwargs"]), seed=0, device="cpu")
    histories = model.get_env()
    worlds = [one.unwrapped for one in histories.unwrapped.envs]
    histories.reset()
    for _ in range(5):
        rows = histories.window.x[np.arange(2), histories.window.lengths - 1]
        for row, world in zip(rows, worlds, strict=True):
            prey = world._partners[-1].state
            own = world._ego.state.p_pos
            wanted = [own, *(partner.state.p_pos - own for partner in world._partners), prey.p_vel]
            assert row[:10] == pytest.approx(np.concatenate(wanted), abs=1e-5)
            assert len(row) == 10 + 5, "and what it did itself"
        histories.step(np.array([1, 4]))
    short = resolve("ppo-nam", TAG, {"env.kwargs.role": "predator", "env.kwargs.sight": 0.5})
    assert short["history"]["columns"] == [] and short["history"]["others"] == ["partner*_from_ego"]


def test_rewards_are_scaled_for_the_agent_alone():
    config = resolve("ppo-nam", TAG, {**SMALL, "algorithm.reward_scale": 0.25})
    assert (
        resolve("ppo-nam", TAG)["algorithm"]["reward_scale"] == 0.02
        and resolve("ppo-nam", LBF)["algorithm"]["reward_scale"] == 1
    )
    learned, told = [], []
    for scale in (0.25, 1.0):
        config["algorithm"]["reward_scale"] = scale
        model, callbacks = build(config, make_vec_env(TAG, seed=0, n_envs=4), seed=0, device="cpu")
        rollouts = []

        class Keep(BaseCallback):
            def _on_step(self):
                return True

            def _on_rollout_end(self):
                rollouts.append(self.model.rollout_buffer.rewards.copy())  # noqa: B023

        model.learn(64, callback=[*callbacks, Keep()])  # one rollout, before anything was learned
        learned.append(rollouts[0])
        model.learn(4 * 50, callback=callbacks)
        told.append([info["r"] for info in model.ep_info_buffer])
    assert np.abs(learned[0]).max() > 0
    np.testing.assert_allclose(learned[0], 0.25 * learned[1], rtol=1e-6)
    assert len(told[0]) == 4 and min(told[0] + told[1]) < -5, "returns are the environment's own"


def test_what_sight_changes():
    """Rows that know of partners who are not there; and a partner out of sight has neither place nor step."""
    config = resolve("ppo-nam", TAG, {**SMALL, "env.kwargs.sight": 0.5})
    assert config["history"]["others"] == ["partner*_from_ego"] and config["history"]["columns"] == []
    model, _ = build(config, make_vec_env(TAG, seed=0, n_envs=4, sight=0.5), seed=0, device="cpu")
    histories = model.get_env()
    histories.reset()
    rng, hidden = np.random.default_rng(0), 0
    for _ in range(30):
        for index, one in enumerate(histories.unwrapped.envs):
            world = one.unwrapped._world()
            row = histories.window.x[index, histories.window.lengths[index] - 1]
            for number, partner in enumerate(world.partners):
                part, away = row[4 * number : 4 * number + 4], partner - world.ego
                near = np.hypot(*away) <= 0.5
                assert part[:2] == pytest.approx(away if near else [0, 0], abs=1e-5)
                assert near or (part[2:] == 0).all()
                hidden += not near
        histories.step(rng.integers(5, size=4))
    assert hidden > 50
