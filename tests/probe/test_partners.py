"""Who the partner is: identification on held-out episodes, intervals, returns, files and pictures."""

import json

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from crl import intervals
from crl.networks.history_encoder import HistoryEncoder
from crl.networks.history_rows import HistoryRows
from crl.probe.episodes import ProbeError
from crl.probe.labels import linear_f1, linear_hits
from crl.probe.partner_data import PartnerData, embeddings, fit_to_partners
from crl.probe.partners import MOMENTS, identify, partner_rows, partner_table, returns_by_partner
from crl.probe.pictures import draw_partners
from crl.replay.episode_store import EpisodeStore

NAMES = ["left", "right", "still"]


def data(n=240, tells_from=2, seed=0):
    """Partners that show who they are in column 0, from observation ``tells_from`` on, and in nothing else."""
    rng = np.random.default_rng(seed)
    store = EpisodeStore(n, 1, told=("partner_id",))
    for _ in range(n):
        partner, length = int(rng.integers(3)), int(rng.integers(4, 12))
        info = {"partner_id": partner}

        def obs(t, partner=partner):
            shows = t + 1 >= tells_from
            return np.array([(partner - 1) * shows + 0.1 * rng.normal(), rng.normal()], dtype=np.float32)

        store.begin(0, obs(0), info)
        for t in range(length):
            store.add(0, rng.integers(0, 2, 1), float(partner), obs(t + 1), t + 1 == length, False, info)
    batch = store.episodes(np.arange(n))
    returns = (batch.rewards * batch.mask).sum(1).numpy()
    return PartnerData(batch, store.lengths + 1, returns, batch.partner_id.numpy(), NAMES)


def encoder(seed=0):
    th.manual_seed(seed)
    rows = HistoryRows(spaces.Box(-9.0, 9.0, (2,)), spaces.Discrete(2))
    return HistoryEncoder(rows, 6, width=8, layers=1, heads=2).requires_grad_(False)


@pytest.fixture
def one_penalty(monkeypatch):
    """Choosing among five is tested elsewhere and takes most of the time."""
    monkeypatch.setattr("crl.probe.labels.PENALTIES", (1e-2,))


def test_identification_rises_when_partners_show_who_they_are(one_penalty):
    episodes = data(tells_from=3)
    trained = fit_to_partners(encoder(1), episodes, seed=0, updates=60, learning_rate=1e-2)
    found = identify({"trained": [trained], "random": [encoder(2)]}, episodes, seed=0)
    accuracy = {moment: found["accuracy"]["trained"][moment] for moment in MOMENTS}
    assert found["test_episodes"] == 60 and found["chance"] == pytest.approx(1 / 3)
    for moment in (1, 2):
        assert accuracy[moment]["low"] < 1 / 3 < accuracy[moment]["high"], "nothing was to be seen yet"
    assert accuracy[3]["value"] > 0.8 and accuracy[10]["value"] > 0.9
    assert accuracy[20] == accuracy[50], "all episodes are over: nothing more is to be seen"
    assert found["lasting"][1] == 1.0 and 0 < found["lasting"][10] < 1 and found["lasting"][20] == 0.0
    difference = found["trained_minus_random"][10]
    values = [found["accuracy"][name][10]["value"] for name in ("trained", "random")]
    assert difference["value"] == pytest.approx(values[0] - values[1])
    assert difference["low"] <= difference["value"] <= difference["high"]


def test_random_encoders_are_averaged(one_penalty):
    """Which one is drawn first is luck: the control is the mean of several, and the interval knows that they differ."""
    episodes, several = data(n=120, tells_from=3), [encoder(seed) for seed in range(2, 6)]
    one = [identify({"trained": [encoder(1)], "random": [control]}, episodes, seed=0) for control in several]
    found = identify({"trained": [encoder(1)], "random": several}, episodes, seed=0)
    assert found["encoders"] == {"trained": 1, "random": 4}
    for moment in MOMENTS:
        values = [each["accuracy"]["random"][moment]["value"] for each in one]
        told = found["accuracy"]["random"][moment]
        assert told["value"] == pytest.approx(np.mean(values)) and told["low"] <= told["value"] <= told["high"]
        trained = found["accuracy"]["trained"][moment]["value"]
        assert found["trained_minus_random"][moment]["value"] == pytest.approx(trained - np.mean(values))
    assert "mean of 4 encoders" in partner_table({"identification": {"agent": found}, "returns": {}})


def test_interval_of_draws_holds_how_they_differ():
    rng = np.random.default_rng(0)
    alike = np.tile(rng.integers(0, 2, 400), (6, 1))
    apart = (rng.random((6, 400)) < np.linspace(0.2, 0.8, 6)[:, None]).astype(int)
    widths = []
    for values in (alike, apart):
        estimate = intervals.mean_of_draws(values, np.random.default_rng(1))
        assert estimate.value == pytest.approx(values.mean()) and estimate.low < estimate.value < estimate.high
        widths.append(estimate.high - estimate.low)
    one = intervals.mean_of_draws(alike[:1], np.random.default_rng(1))
    assert one == intervals.mean(alike[0], np.random.default_rng(1)) and widths[0] == pytest.approx(
        one.high - one.low, rel=0.1
    )
    # six draws between 0.2 and 0.8: their mean has a standard error of 0.08
    assert 0.25 < widths[1] < 0.45

    inside = 0
    for _ in range(60):
        draws = rng.normal(scale=0.3, size=(8, 1)) + rng.normal(size=(1, 40)) + 0.1 * rng.normal(size=(8, 40))
        estimate = intervals.mean_of_draws(draws, rng)
        inside += estimate.low <= 0 <= estimate.high
    assert 48 <= inside <= 60


def test_embeddings_are_of_the_beginning_alone():
    episodes, net = data(), encoder()
    before = embeddings(net, episodes, 3)
    later = episodes.batch.obs.clone()
    episodes.batch.obs[:, 3:] = 99.0
    assert np.array_equal(before, embeddings(net, episodes, 3))
    assert not np.allclose(before, embeddings(net, episodes, 4))
    episodes.batch.obs[:] = later
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1.0, rtol=1e-5)
    # an episode that is over counts with all that it had
    short = int(episodes.lengths.argmin())
    n = int(episodes.lengths[short])
    a, b = embeddings(net, episodes, n)[short], embeddings(net, episodes, 50)[short]
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_embeddings_are_of_as_much_as_the_agent_keeps():
    """Of the newest rows, counted from the first of them: what an agent of so short a memory acts on."""
    episodes, net = data(), encoder()
    net.length = 3
    rows = net.rows(episodes.batch.obs, episodes.batch.actions)
    found = embeddings(net, episodes, 6)
    for index in (0, 1, 2):
        seen = min(6, int(episodes.lengths[index]))
        wanted = net.encode_prefixes(rows[index : index + 1, seen - 3 : seen], th.tensor([3]))
        np.testing.assert_allclose(found[index], wanted[0], atol=1e-5)
    np.testing.assert_allclose(embeddings(net, episodes, 2), embeddings(encoder(), episodes, 2), atol=1e-6)


def test_supervised_training_does_not_see_test_episodes():
    one, two = data(), data()
    test = np.arange(len(two)) >= 180
    two.batch.obs[test] = 7.0
    two.batch.partner_id[test] = 0
    a, b = (fit_to_partners(encoder(1), episodes, seed=0, updates=3).state_dict() for episodes in (one, two))
    # padded to the same length: the same batches, to the last bit
    assert all(th.equal(a[key], b[key]) for key in a)


def test_hits_agree_with_f1():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 80)
    features = np.eye(3)[labels] + 0.1 * rng.normal(size=(80, 3))
    assert linear_hits(features, labels, np.arange(80)).all() and linear_f1(features, labels, np.arange(80)) == 1.0
    noise = linear_hits(rng.normal(size=(80, 3)), labels, np.arange(80))
    assert len(noise) == 20 and noise.mean() < 0.7


def test_intervals():
    assert intervals.share(np.array([True] * 5 + [False] * 5)) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)
    assert intervals.share(np.ones(10, bool))[1:] == pytest.approx((0.7225, 1.0), abs=1e-4)
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        estimate = intervals.mean(rng.normal(size=40), rng)
        inside += estimate.low <= 0 <= estimate.high
    assert 85 <= inside <= 100


def test_returns_and_table(tmp_path, one_penalty):
    episodes = data()
    returns = returns_by_partner(episodes, seed=0)
    for partner, name in enumerate(NAMES):
        rows = episodes.partners == partner
        assert returns[name]["episodes"] == rows.sum()
        assert returns[name]["value"] == pytest.approx(episodes.returns[rows].mean())
        assert returns[name]["low"] <= returns[name]["value"] <= returns[name]["high"]
    assert returns["all"]["episodes"] == len(episodes)
    found = identify({"trained": [encoder(1)], "random": [encoder(2)]}, episodes, seed=0)
    report = {"identification": {"agent": found}, "returns": returns}
    rows = partner_rows(report)
    assert len([row for row in rows if row["what"] == "accuracy"]) == 2 * len(MOMENTS)
    text = partner_table(report)
    assert all(word in text for word in ("trained - random", "chance 0.333", "still", "95 %"))
    shown = {"trained": {moment: embeddings(encoder(), episodes, moment) for moment in (1, 5)}}
    assert draw_partners(shown, episodes.partners, NAMES, tmp_path / "partners.png", 0).stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [False, True])
def test_probe_of_a_run(pixels, tmp_path):
    from crl.probe.report import probe_run, table
    from crl.runs.run import new_run, train

    from ..agents.test_agent_model_recipes import LBF, PIXELS, SMALL

    for agent in ("ppo-clam", "ppo-nam"):
        fields = {**SMALL, **(PIXELS if pixels else {})}
        folder = new_run(agent, LBF, fields, seed=3, out=tmp_path / agent, steps=128, device="cpu", checkpoint_every=0)
        train(folder, show_progress=False)
        report = probe_run(folder, episodes=32, supervised_updates=2)
        written = json.loads((folder.path / "probe" / "step000000000128" / "probe.json").read_text())
        assert written["identification"]["random"]["test_episodes"] == 8
        assert ("trained" in written["identification"]["agent"]["accuracy"]) == (agent == "ppo-clam")
        assert "return with" in table(report)
        assert (folder.path / "probe" / "step000000000128" / "partners.png").is_file()


@pytest.mark.parametrize("deterministic", [True, False])
def test_pictures_are_kept_as_what_the_cnn_makes_of_them(deterministic):
    """Of episodes in which the agent acts as it does in its evaluations: by likeliest actions, or by drawn ones."""
    from crl.agents import build, resolve
    from crl.envs import make_vec_env
    from crl.history import history_extractor, seen_by
    from crl.probe.episodes import PROBE_SEED
    from crl.probe.partner_data import collect_with_partners

    from ..agents.test_agent_model_recipes import LBF, PIXELS, SMALL

    config = resolve("ppo-clam", LBF, {**SMALL, **PIXELS, "env.kwargs.time_limit": 4})
    assert config["train"]["eval_deterministic"] is False
    config["train"]["eval_deterministic"] = deterministic
    options = config["env"]["kwargs"]
    model, _ = build(config, make_vec_env(LBF, n_envs=4, **options), seed=0, device="cpu")
    before = th.get_rng_state()
    found = collect_with_partners(model, config, 4, "agent")
    assert th.equal(before, th.get_rng_state()), "training's own stream does not move"
    net = history_extractor(model).encoder
    assert found.batch.obs.shape == (4, 5, 8) and found.batch.obs.dtype == th.float32
    # what the agent acted on in the same episodes
    env = seen_by(model, make_vec_env(LBF, seed=PROBE_SEED, n_envs=4, evaluation=True, **options))
    th.manual_seed(PROBE_SEED)
    obs = env.reset()
    for seen in range(1, 5):
        np.testing.assert_allclose(embeddings(net, found, seen), obs["embedding"], atol=1e-4)
        obs, _, dones, infos = env.step(model.predict(obs, deterministic=deterministic)[0])
        assert not dones.any() or seen == 4
    last = np.stack([info["terminal_observation"]["embedding"] for info in infos])
    np.testing.assert_allclose(embeddings(net, found, 5), last, atol=1e-4)


def test_nobody_to_identify():
    from crl.probe.partner_data import collect_with_partners

    from ..callbacks.agent_models import make_model

    config = {"env": {"id": "toy/reach-discrete", "kwargs": {}}}
    with pytest.raises((ProbeError, ValueError)):
        collect_with_partners(make_model(), config, 8, "random")
