"""Evaluation with one partner at a time, and pictures of agents whose observations are vectors."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO

from crl.envs import EnvironmentOptionError, make_env, make_vec_env
from crl.runs.evaluation import EVALUATION_SEED, evaluate
from crl.runs.partner_evaluation import evaluate_per_partner


def config(env_id, **kwargs):
    return {"env": {"id": env_id, "kwargs": kwargs}, "train": {"eval_envs": 1}}


def agent(env_id, **kwargs):
    return PPO("MultiInputPolicy" if kwargs.get("pixels") else "MlpPolicy", make_vec_env(env_id, **kwargs), device="cpu")


def test_each_partner_plays_its_own_episodes():
    model = agent("lbf/8x8-2p-2f-coop", pool="test", oracle=True, time_limit=12)
    names = model.env.get_attr("pool_names")[0]
    found = evaluate_per_partner(model, config("lbf/8x8-2p-2f-coop", pool="test", oracle=True, time_limit=12), 3)
    assert tuple(result.name for result in found) == names
    met = model.env.get_attr("partner_ids")[0]
    assert 0 < len(met) < len(names) and [result.trained_with for result in found] == [i in met for i in range(len(names))]
    for name, _, result in found:
        env = make_env("lbf/8x8-2p-2f-coop", seed=EVALUATION_SEED, evaluation=True, partner=name, oracle=True, time_limit=12)
        returns = []
        for _ in range(3):
            (obs, info), total, over = env.reset(), 0.0, False
            assert names[info["partner_id"]] == name
            while not over:
                obs, reward, terminated, truncated, _ = env.step(model.predict(obs, deterministic=True)[0])
                total, over = total + reward, terminated or truncated
            returns.append(total)
        assert result.returns == pytest.approx(returns) and result.partners == [names.index(name)] * 3
        estimate = found[names.index(name)].mean
        assert estimate.value == pytest.approx(np.mean(returns)) and estimate.low <= estimate.value <= estimate.high
    with pytest.raises(EnvironmentOptionError, match="gym/CartPole-v1 has no pool of partners"):
        evaluate_per_partner(model, config("gym/CartPole-v1"), 1)


def test_actions_that_are_drawn():
    """The same draws in each evaluation, whatever was drawn before, and none of them is missed afterwards."""
    options = dict(penalty=0.05, relative=True, time_limit=20)
    model = agent("lbf/8x8-2p-2f-coop", **options)
    drawn = config("lbf/8x8-2p-2f-coop", **options)
    drawn["train"]["eval_deterministic"] = False
    env = make_env("lbf/8x8-2p-2f-coop", seed=EVALUATION_SEED, evaluation=True, **options)
    th.manual_seed(EVALUATION_SEED)
    returns = []
    for _ in range(4):
        (obs, _), total, over = env.reset(), 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(model.predict(obs)[0])
            total, over = total + reward, terminated or truncated
        returns.append(total)
    th.manual_seed(7)
    state = th.get_rng_state()
    assert evaluate(model, drawn, 4).returns == pytest.approx(returns)
    assert (th.get_rng_state() == state).all()
    th.manual_seed(8)
    assert evaluate(model, drawn, 4).returns == pytest.approx(returns)
    assert evaluate(model, config("lbf/8x8-2p-2f-coop", **options), 4).returns != pytest.approx(returns)


@pytest.mark.parametrize("options", [{}, dict(pixels=True, oracle=True)])
def test_films(options):
    model = agent("mpe/simple_tag", **options)
    frames = evaluate(model, config("mpe/simple_tag", **options), 1, film=True).frames
    assert len(frames) == 50 and {(frame.shape, frame.dtype.name) for frame in frames} == {((64, 64, 3), "uint8")}
    env = make_env("mpe/simple_tag", seed=EVALUATION_SEED, evaluation=True, **options)
    env.reset()
    assert (frames[0] == env.render()).all()
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 0
