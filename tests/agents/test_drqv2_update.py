"""
Updates of :class:`crl.agents.DrQv2` against an independent port of DrQ-v2's in plain torch, parameter by parameter; who moves
what; the noise.
"""

import copy

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.logger import Logger
from torch import nn

from crl.agents import DrQv2
from crl.agents.scheduled_noise import linear_std, noisy_action
from crl.augment import RandomShift

from .agents import ACTIONS, BATCH, KnownBatches, make_env, random_transitions, same, state
from .test_drq_update import PAD, Head, KnownShifts, shift_at
from .test_published_update import FEATURES, Convs, mlp

UPDATES, STEP = 3, 5000
KWARGS = dict(net_arch=[32, 32], features_extractor_kwargs=dict(filters=8, features_dim=FEATURES))


def make(**kwargs):
    defaults = dict(
        buffer_size=200,
        learning_starts=20,
        batch_size=BATCH,
        replay_buffer_kwargs=dict(n_stack=3, augment=RandomShift(PAD)),
        metrics_interval=2,
        std_steps=10_000,
        policy_kwargs=KWARGS,
        seed=0,
    )
    return DrQv2("PixelPolicy", make_env(), **{**defaults, **kwargs})


class Port:
    """DrQ-v2's agent: a list of modules for each of its networks, and three Adams."""

    def __init__(self, lr=1e-4):
        self.encoder = Convs()
        self.actor = nn.ModuleList([Head(), mlp(FEATURES, ACTIONS)])
        self.critic, self.target = (
            nn.ModuleList([Head(), mlp(FEATURES + ACTIONS, 1), mlp(FEATURES + ACTIONS, 1)]) for _ in range(2)
        )
        self.lr = lr

    def make_optimizers(self):
        networks = (self.encoder, self.actor, self.critic)
        self.encoder_adam, self.actor_adam, self.critic_adam = (th.optim.Adam(n.parameters(), lr=self.lr) for n in networks)

    def encode(self, images):
        return self.encoder(images - 127.5)  # Convs divides by 255

    def act(self, h, std, eps):
        trunk, policy = self.actor
        mu = th.tanh(policy(trunk(h)))
        x = mu + th.clamp(eps * std, -0.3, 0.3)
        return x - x.detach() + th.clamp(x, -1 + 1e-6, 1 - 1e-6).detach()

    @staticmethod
    def q(critic, h, actions):
        trunk, q1, q2 = critic
        x = th.cat([trunk(h), actions], dim=1)
        return q1(x), q2(x)

    def update(self, obs, next_obs, actions, rewards, discounts, std, next_eps, eps):
        h = self.encode(obs)
        with th.no_grad():
            next_h = self.encode(next_obs)
            target = rewards + discounts * th.min(*self.q(self.target, next_h, self.act(next_h, std, next_eps)))
        loss = sum(F.mse_loss(q, target) for q in self.q(self.critic, h, actions))
        self.encoder_adam.zero_grad()
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        self.encoder_adam.step()

        h = h.detach()
        actor_loss = -th.min(*self.q(self.critic, h, self.act(h, std, eps))).mean()
        self.actor_adam.zero_grad()
        actor_loss.backward()
        self.actor_adam.step()
        with th.no_grad():
            for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                slow.copy_(0.01 * fast + 0.99 * slow)


def parameters(model):
    if isinstance(model, Port):
        parts = {name: getattr(model, name).parameters() for name in ("encoder", "actor", "critic", "target")}
    else:
        actor, critic, target = model.actor, model.critic, model.critic_target
        parts = {
            "encoder": model.encoder.body.parameters(),
            "actor": [*actor.features_extractor.parameters(), *actor.mu.parameters()],
            "critic": [*model.encoder.head.parameters(), *critic.qf0.parameters(), *critic.qf1.parameters()],
            "target": [*target.features_extractor.parameters(), *target.qf0.parameters(), *target.qf1.parameters()],
        }
    return {f"{part}.{i}": parameter for part, found in parts.items() for i, parameter in enumerate(found)}


def both(updates=UPDATES, lr=1e-3):
    """
    The agent and the port, after the same updates. Bound actions and large rewards: the clamp and the clipping of the noise
    take part.
    """
    th.set_num_threads(1)
    model = make(replay_buffer_class=KnownBatches, learning_rate=lr)
    model.num_timesteps = STEP  # sigma is 0.55: a good half of the draws are clipped at 0.3
    generator = th.Generator().manual_seed(5)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.05 * th.randn(parameter.shape, generator=generator))
        model.actor.mu[-2].bias.add_(th.tensor([2.5, -1.0]))
    port, theirs = Port(lr), parameters(model)
    with th.no_grad():
        for name, parameter in parameters(port).items():
            parameter.copy_(theirs[name])
    port.make_optimizers()

    discounts = th.tensor([0.99, 0.99**2, 0.99**3])[th.arange(BATCH) % 3, None]
    batches = [data._replace(discounts=discounts) for data in random_transitions(updates, seed=1)]
    rng = np.random.default_rng(2)
    offsets = [rng.integers(0, 2 * PAD + 1, (BATCH, 2)) for _ in range(2 * updates)]
    model.replay_buffer.augment = KnownShifts(offsets)
    model.replay_buffer.batches = list(batches)
    model.set_logger(Logger(None, []))
    th.manual_seed(3)
    model.train(updates, BATCH)
    assert model.replay_buffer.augment.used == len(offsets)

    th.manual_seed(3)
    for data in batches:
        obs, next_obs = shift_at(data.observations, offsets.pop(0)), shift_at(data.next_observations, offsets.pop(0))
        noise = [th.randn(BATCH, ACTIONS) for _ in range(2)]
        port.update(obs, next_obs, data.actions, data.rewards, (1 - data.dones) * discounts, 0.55, *noise)
    return model, port


def test_updates_equal_the_published_ones():
    model, port = both()
    mine, theirs = parameters(model), parameters(port)
    assert mine.keys() == theirs.keys() and len(mine) == 8 + (4 + 6) + 2 * (4 + 12)
    for name, parameter in mine.items():
        th.testing.assert_close(parameter, theirs[name], atol=5e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_every_part_has_moved():
    (model, _), (start, _) = both(), both(updates=0)
    start = parameters(start)
    for name, parameter in parameters(model).items():
        assert (parameter - start[name]).abs().max() > 1e-5, name


def test_there_is_one_body_and_no_target_actor():
    model = make()
    bodies = [name for name in model.policy.state_dict() if "_body" in name]
    assert bodies and all(name.startswith("critic.features_extractor._body") for name in bodies)
    assert not any("actor_target" in name for name in model.policy.state_dict())
    assert model.critic_target._shared[0] is model.actor._shared[0] is model.critic.features_extractor
    assert not {id(p) for p in model.critic_target.parameters()} & {id(p) for p in model.critic.parameters()}
    owned = [p for adam in (model.actor.optimizer, model.critic.optimizer) for g in adam.param_groups for p in g["params"]]
    assert len(owned) == len({id(p) for p in owned}) == len(list(model.actor.parameters()) + list(model.critic.parameters()))
    clone = copy.deepcopy(model.policy)
    assert clone.critic_target._shared[0] is clone.actor._shared[0] is clone.critic.features_extractor is not model.encoder
    obs, actions = th.randint(0, 256, (4, 9, 24, 24), dtype=th.uint8), th.zeros(4, ACTIONS)
    for mine, target in zip(model.critic(obs, actions), model.critic_target(obs, actions), strict=True):
        th.testing.assert_close(mine, target)


def test_the_actors_loss_reaches_the_actor_alone():
    model = make()
    model.set_logger(Logger(None, []))
    feature_map = model.encoder.forward_body(th.rand(BATCH, 9, 24, 24))
    before = state(model.policy)
    model._actor_step(feature_map.detach())
    assert all(p.grad is None for part in (model.critic, model.critic_target) for p in part.parameters())
    moved = {name.split(".")[0] for name, value in model.policy.state_dict().items() if not th.equal(value, before[name])}
    assert moved == {"actor"}


def test_the_encoder_sees_centred_pixels_and_starts_orthogonal():
    model = make()
    seen = []
    model.encoder.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.predict(np.full((1, 9, 24, 24), 255, np.uint8))
    model.encoder.forward_body(model._network_input(th.zeros(1, 9, 24, 24, dtype=th.uint8)))
    assert seen[0].unique().item() == 0.5 and seen[1].unique().item() == -0.5
    assert model.encoder.init == "orthogonal" and isinstance(model.encoder.head[-1], nn.Tanh)
    for layer in (model.actor.mu[2], model.critic.qf0[2]):
        th.testing.assert_close(layer.weight @ layer.weight.T, th.eye(32), atol=1e-5, rtol=0)
        assert not layer.bias.any()


def test_the_schedule():
    values = [linear_std(step, 1.0, 0.1, 1000) for step in (0, 500, 1000, 10**7)]
    assert values == pytest.approx([1.0, 0.55, 0.1, 0.1])
    model = make(std_steps=1000)
    model.num_timesteps = 250
    assert model.exploration_std == pytest.approx(0.775)


def test_noise_of_updates():
    mean = th.tensor([[0.0, 0.999, -0.999]], requires_grad=True)
    noise = th.tensor([[0.1, 5.0, -0.5]])
    action = noisy_action(mean, 0.5, noise, 0.3)
    assert action.tolist() == [pytest.approx([0.05, 1 - 1e-6, -1 + 1e-6], abs=1e-7)]
    action.sum().backward()
    assert mean.grad.tolist() == [[1, 1, 1]], "the clamp lets gradients pass"
    assert noisy_action(mean, 1.0, noise, 0.3)[0, 0].item() == pytest.approx(0.1)
    assert noisy_action(th.zeros(1, 1), 1.0, th.tensor([[-2.0]]), 0.3).item() == pytest.approx(-0.3)


def test_exploration():
    """Uniform at first, whatever sigma is; then around the actor's action, with the schedule's sigma, not clipped at 0.3."""
    model = make(learning_starts=50, std_start=0.4, std_end=0.2, std_steps=100)
    model._setup_learn(1)
    with th.no_grad():
        model.actor.mu[-2].weight.zero_()
        model.actor.mu[-2].bias.copy_(th.tensor([0.1, -0.2]).atanh())
    model.action_space.seed(0)
    np.random.seed(0)

    def sample(step, n=2000):
        model.num_timesteps = step
        obs = model._last_obs
        model._last_obs = np.repeat(obs, n, axis=0)
        action, stored = model._sample_action(model.learning_starts, None, n)
        model._last_obs = obs
        assert action.shape == (n, ACTIONS) and np.abs(stored).max() <= 1
        np.testing.assert_allclose(action, stored, atol=1e-6)
        return stored

    uniform = sample(49)
    assert uniform.std() == pytest.approx(1 / 3**0.5, abs=0.02) and np.abs(uniform.mean()) < 0.04
    for step, sigma in ((50, 0.3), (100, 0.2), (1000, 0.2)):
        noise = sample(step) - [0.1, -0.2]
        assert noise.mean(axis=0) == pytest.approx([0, 0], abs=0.025)
        assert noise.std(axis=0) == pytest.approx([sigma, sigma], abs=0.02)
        assert np.abs(noise).max() > 0.6
        assert np.corrcoef(noise.T)[0, 1] == pytest.approx(0, abs=0.09)
    assert model.predict(model._last_obs)[0][0] == pytest.approx([0.1, -0.2], abs=1e-6), "predict adds none"


@pytest.mark.parametrize("n_steps", [3, 1])
def test_life_cycle(n_steps, tmp_path, recwarn):
    model = make(n_steps=n_steps)
    model.learn(40)
    assert model._n_updates == 10, "one update every second step from the twentieth on"
    assert model.n_steps == model.replay_buffer.n_steps == n_steps
    assert not any("n_steps" in str(warning.message) for warning in recwarn)
    model.save(tmp_path / "agent")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = DrQv2.load(tmp_path / "agent", env=make_env())
    loaded.load_replay_buffer(tmp_path / "replay")
    assert same(state(model.policy), state(loaded.policy)) and loaded.n_steps == n_steps
    images = make_env().reset()
    np.testing.assert_array_equal(model.predict(images)[0], loaded.predict(images, deterministic=True)[0])
    for agent in (model, loaded):
        agent.set_logger(Logger(None, []))
        th.manual_seed(1)
        np.random.seed(1)
        agent.train(3, BATCH)
    assert same(state(model.policy), state(loaded.policy))
    model.policy.save(tmp_path / "policy")
    again = type(model.policy).load(tmp_path / "policy")
    assert same(state(model.policy), state(again)) and again.critic_target._shared[0] is again.critic.features_extractor
    loaded.learn(6, reset_num_timesteps=False)
    assert loaded._n_updates == model._n_updates + 3


def test_what_is_logged():
    model = make(metrics_interval=1)
    model.learn(30)
    model.train(1, BATCH)
    keys = set(model.logger.name_to_value)
    assert {"train/critic_loss", "train/actor_loss", "train/q_mean", "train/exploration_std", "repr/rl_grad_norm"} <= keys
    assert {"repr/effective_rank", "repr/embedding_std", "train/dormant_q_units", "train/replay_ratio"} <= keys
    with th.no_grad():
        model.critic.qf0[-1].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="diverged"):
        model.train(1, BATCH)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(n_steps=0), "at least 1"),
        (dict(std_steps=0), "at least 1"),
        (dict(metrics_interval=0), "at least 1"),
        (dict(tau=1.5), "EMA rate"),
        (dict(std_end=-0.1), "negative"),
        (dict(noise_clip=-1.0), "negative"),
        (dict(replay_buffer_kwargs=dict(n_stack=3, n_steps=5)), "give them to DrQv2 alone"),
        (dict(replay_buffer_kwargs=dict(n_stack=3, gamma=0.9)), "give them to DrQv2 alone"),
        (dict(policy_kwargs=dict(encoder_gradient="actor")), "the critic moves the encoder"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_another_policy_is_refused():
    from crl.policies import PixelTD3Policy

    with pytest.raises(ValueError, match="DrQv2 needs DrQv2Policy"):
        DrQv2(PixelTD3Policy, make_env(), buffer_size=100, replay_buffer_kwargs=dict(n_stack=3), policy_kwargs=KWARGS)
