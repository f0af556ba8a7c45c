"""What ``scripts/speed.py`` measures: one function a row, which prepares it and returns a block to be timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: runs some updates and says how many
Block = Callable[[], int]
Made = tuple[Block, dict[str, Any]]
PAIR = 2  # actor and targets take part in every second update
HISTORY = 1000  # transitions in the replay buffers


@dataclass(frozen=True)
class Row:
    """
    :param name: on the command line
    :param text: what it is
    :param make: options to a block, and facts for the table
    :param unit: what is counted
    :param allocator: with crl's setting of the allocator
    :param peer: the checkout that it needs
    :param part: rows of one part take turns; parts come one after another, and give their memory back
    """

    name: str
    text: str
    make: Callable[[dict[str, Any]], Made]
    unit: str = "update"
    allocator: bool = True
    peer: str | None = None
    part: str = "updates"


ROWS: dict[str, Row] = {}


def row(name: str, text: str, **kwargs: Any) -> Callable[[Callable[[dict[str, Any]], Made]], Callable[[dict[str, Any]], Made]]:
    """Register a row."""

    def register(make: Callable[[dict[str, Any]], Made]) -> Callable[[dict[str, Any]], Made]:
        ROWS[name] = Row(name, text, make, **kwargs)
        return make

    return register


# ---- environments of noise: what is timed must not depend on a simulator


def noise_env(size: int, actions: int, channels: int = 3, stack: int = 3, discrete: bool = False, n_envs: int = 1) -> Any:
    """A vectorised environment of random frames, stacked; episodes of 250 steps that are cut off."""
    import gymnasium as gym
    import numpy as np
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Noise(gym.Env[Any, Any]):
        observation_space = spaces.Box(0, 255, (stack * channels, size, size), np.uint8)
        action_space = spaces.Discrete(actions) if discrete else spaces.Box(-1, 1, (actions,), np.float32)

        def _frame(self) -> Any:
            return self.np_random.integers(0, 256, (channels, size, size), dtype=np.uint8)

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            self.t, self.frames = 0, [self._frame()] * stack
            return np.concatenate(self.frames), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.t += 1
            self.frames = [*self.frames[1:], self._frame()]
            return np.concatenate(self.frames), float(self.t % 7), False, self.t >= 250, {}

    return DummyVecEnv([Noise] * n_envs)


def quiet(model: Any) -> Any:
    """A logger that writes nothing."""
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(None, []))
    return model


def updates_of(model: Any, batch_size: int, updates: int = PAIR) -> Block:
    """A block of an off-policy agent's own ``train``."""

    def block() -> int:
        model.train(updates, batch_size)
        return updates

    return block


# ---- every recipe


def recipe(options: dict[str, Any], name: str, overrides: dict[str, Any] | None = None) -> Made:
    """A recipe's agent on noise of the size that it would see on walker-walk."""
    from crl.agents import build, resolve

    fields = {
        "algorithm.batch_size": options["batch_size"],
        "algorithm.buffer_size": HISTORY,
        "algorithm.learning_starts": 10 * HISTORY,
        **(overrides or {}),
    }
    config = resolve(name, "dmc/walker-walk", fields)
    env = noise_env(config["env"]["kwargs"]["size"], options["actions"])
    model, _ = build(config, env, seed=0, device="cpu")
    model.learn(HISTORY // 2)
    quiet(model)
    precision = model.policy.encoder.precision  # type: ignore[union-attr]
    model.train(PAIR, options["batch_size"])  # the first one looks at gradients, at the price of a backward pass
    info = {"precision": precision, "gflop": convolution_flops(model, options["batch_size"]) / 1e9}
    return updates_of(model, options["batch_size"]), info


def convolution_flops(model: Any, batch_size: int) -> float:
    """Floating point operations of all convolutions, forward and backward, in one update (the mean of a pair)."""
    from crl.networks import ConvolutionCounter

    with ConvolutionCounter() as count:
        model.train(PAIR, batch_size)
    return count.flops / PAIR


def _register_recipes() -> None:
    from crl.agents import list_recipes
    from crl.agents.drqv2_family import DRQV2
    from crl.agents.rainbow_family import RAINBOW
    from crl.agents.recipes import family_of
    from crl.agents.sac_family import SAC

    for name, text in list_recipes().items():
        if family_of(name) in (SAC, DRQV2):
            ROWS[name] = Row(name, text, lambda options, name=name: recipe(options, name))  # type: ignore[misc]
        elif family_of(name) is RAINBOW:
            make = lambda options, name=name: atari_recipe(name)  # noqa: E731
            ROWS[name] = Row(name, text, make, part="atari")  # type: ignore[arg-type]


def atari_recipe(name: str, overrides: dict[str, Any] | None = None) -> Made:
    """A recipe's agent on noise as Atari's frames are: grey, 84x84, four of them, six actions; its own batch of 32."""
    from crl.agents import build, resolve

    fields = {"algorithm.buffer_size": 2 * HISTORY, "algorithm.learning_starts": 10 * HISTORY, **(overrides or {})}
    config = resolve(name, "atari/Assault", fields)
    model, _ = build(config, noise_env(84, 6, 1, 4, discrete=True), seed=0, device="cpu")
    model.learn(HISTORY)
    quiet(model)
    batch_size = config["algorithm"]["batch_size"]
    info = {"batch_size": batch_size, "precision": config["policy"]["precision"]}
    return updates_of(model, batch_size, 20), {**info, "gflop": convolution_flops(model, batch_size) / 1e9}


_register_recipes()


@row("der-bf16", "der, convolutions in bf16", part="atari")
def _(options: dict[str, Any]) -> Made:
    return atari_recipe("der", {"policy.precision": "bf16"})


@row("spr-bf16", "spr, convolutions of the encoder in bf16", part="atari")
def _(options: dict[str, Any]) -> Made:
    return atari_recipe("spr", {"policy.precision": "bf16"})


@row("sb3-dqn-der", "SB3's DQN with der's encoder and one layer of 256, batch 32", allocator=False, part="atari")
def _(options: dict[str, Any]) -> Made:
    from stable_baselines3 import DQN

    from crl import RainbowEncoder

    model = DQN(
        "CnnPolicy",
        noise_env(84, 6, 1, 4, discrete=True),
        buffer_size=2 * HISTORY,
        learning_starts=10 * HISTORY,
        policy_kwargs=dict(features_extractor_class=RainbowEncoder, net_arch=[256]),
    )
    model.learn(HISTORY)
    return updates_of(quiet(model), 32, 20), {"batch_size": 32}


@row("curl-sac-paper-bf16", "the same algorithm, convolutions in bf16")
def _(options: dict[str, Any]) -> Made:
    return recipe(options, "curl-sac-paper", {"policy.precision": "auto"})


@row("curl-sac-fp32", "joint pass, fp32")
def _(options: dict[str, Any]) -> Made:
    return recipe(options, "curl-sac", {"policy.precision": "fp32"})


@row("curl-sac-pool", "curl-sac with global average pooling instead of the 39200x50 matrix")
def _(options: dict[str, Any]) -> Made:
    return recipe(options, "curl-sac", {"policy.pool_size": 1})


@row("rad-sac-sb3-periods", "rad-sac with actor and targets at every update, as SB3")
def _(options: dict[str, Any]) -> Made:
    return recipe(options, "rad-sac", {"algorithm.actor_period": 1, "algorithm.target_period": 1})


@row("conv-bf16", "the fastest convolution of the body alone, bf16, channels last: the floor by FLOPs", unit="convolution")
def _(options: dict[str, Any]) -> Made:
    import torch as th

    half = dict(dtype=th.bfloat16)
    images = th.rand(options["batch_size"], 32, 41, 41).to(**half).contiguous(memory_format=th.channels_last)
    weight = th.rand(32, 32, 3, 3).to(**half).contiguous(memory_format=th.channels_last)

    @th.no_grad()
    def block() -> int:
        for _ in range(20):
            th.conv2d(images, weight)
        return 20

    return block, {"gflop": 2 * options["batch_size"] * 32 * 39**2 * 32 * 9 / 1e9}


# ---- SB3's own agents


def sac(options: dict[str, Any], policy: Any, accelerated: bool = False, callback: Any = None, **policy_kwargs: Any) -> Any:
    """SB3's SAC on noise of 84x84, its replay buffer filled."""
    from stable_baselines3 import SAC

    from crl import FrameReplayBuffer, RandomShift, accelerate

    crl_policy = not isinstance(policy, str)
    replay = dict(replay_buffer_class=FrameReplayBuffer, replay_buffer_kwargs=dict(augment=RandomShift(4), n_stack=3))
    model = SAC(
        policy,
        noise_env(84, options["actions"]),
        buffer_size=HISTORY,
        batch_size=options["batch_size"],
        learning_starts=10 * HISTORY,
        policy_kwargs=dict(net_arch=[1024, 1024], **policy_kwargs),
        **(replay if crl_policy else {}),  # type: ignore[arg-type]
    )
    if accelerated:
        accelerate(model)
    model.learn(HISTORY // 2)
    return quiet(model)


def pixel_encoder() -> dict[str, Any]:
    """The encoder of the recipes, for SB3's policies."""
    from crl import PixelEncoder

    return dict(features_extractor_class=PixelEncoder)


@row("sb3-sac", "SB3's SAC, CnnPolicy, with the recipes' encoder", allocator=False)
def _(options: dict[str, Any]) -> Made:
    return updates_of(sac(options, "CnnPolicy", **pixel_encoder()), options["batch_size"]), {}


@row("sb3-sac-allocator", "the same with our allocator")
def _(options: dict[str, Any]) -> Made:
    return updates_of(sac(options, "CnnPolicy", **pixel_encoder()), options["batch_size"]), {}


@row("sb3-sac-nature", "SB3's SAC, CnnPolicy with NatureCNN", allocator=False, part="sb3")
def _(options: dict[str, Any]) -> Made:
    return updates_of(sac(options, "CnnPolicy"), options["batch_size"]), {}


@row("sb3-sac-nature-accelerated", "the same after crl.accelerate", part="sb3")
def _(options: dict[str, Any]) -> Made:
    return updates_of(sac(options, "CnnPolicy", accelerated=True), options["batch_size"]), {}


def learning(model: Any, callback: Any = None) -> Block:
    """A block of SB3's own ``learn`` with one update a step: callbacks take part."""
    model.learning_starts = 0

    def block() -> int:
        model.learn(2 * PAIR, callback=callback, reset_num_timesteps=False)
        return 2 * PAIR

    return block


def dqn(options: dict[str, Any], accelerated: bool = False, **replay: Any) -> Any:
    """SB3's DQN on grey 4-stacks, batch 32."""
    from stable_baselines3 import DQN

    from crl import accelerate

    env = noise_env(84, 6, 1, 4, discrete=True)
    model = DQN("CnnPolicy", env, buffer_size=HISTORY, learning_starts=10 * HISTORY, **replay)
    if accelerated:
        accelerate(model)
    model.learn(HISTORY // 2)
    return quiet(model)


def dqn_block(model: Any, callback: Any = None) -> Made:
    """Updates by ``learn``, one a step."""
    model.train_freq = type(model.train_freq)(1, model.train_freq.unit)
    return learning(model, callback), {"batch_size": 32}


@row("dqn", "SB3's DQN, NatureCNN, 4x84x84, batch 32", allocator=False, part="sb3")
def _(options: dict[str, Any]) -> Made:
    return dqn_block(dqn(options))


@row("dqn-accelerated", "the same after crl.accelerate", part="sb3")
def _(options: dict[str, Any]) -> Made:
    return dqn_block(dqn(options, accelerated=True))


def ppo(accelerated: bool = False, curl: bool = False) -> Made:
    """SB3's PPO on grey 4-stacks, 8 environments; the unit is one iteration of 1024 steps, 4 epochs of batches of 256."""
    from stable_baselines3 import PPO

    from crl import CURL, AuxiliaryLossCallback, RandomShift, accelerate

    model = PPO("CnnPolicy", noise_env(84, 6, 1, 4, discrete=True, n_envs=8), n_steps=128, batch_size=256, n_epochs=4)
    if accelerated:
        accelerate(model)
    quiet(model)
    callback = AuxiliaryLossCallback(CURL(augment=RandomShift(4))) if curl else None

    def block() -> int:
        model.learn(1024, callback=callback, reset_num_timesteps=False)
        return 1

    return block, {"batch_size": 256}


@row("ppo", "SB3's PPO, NatureCNN, 4x84x84: 1024 steps and 4 epochs", unit="iteration", allocator=False, part="sb3")
def _(options: dict[str, Any]) -> Made:
    return ppo()


@row("ppo-accelerated", "the same after crl.accelerate", unit="iteration", part="sb3")
def _(options: dict[str, Any]) -> Made:
    return ppo(accelerated=True)


@row("ppo-curl", "the same, accelerated, with CURL", unit="iteration", part="sb3")
def _(options: dict[str, Any]) -> Made:
    return ppo(accelerated=True, curl=True)


# ---- replay and augmentation


def sampling(options: dict[str, Any], frames: bool) -> Made:
    """Batches of 9x84x84 out of a full buffer."""
    import numpy as np
    from stable_baselines3.common.buffers import ReplayBuffer

    from crl import FrameReplayBuffer

    env, size = noise_env(84, options["actions"]), 4 * HISTORY
    kwargs: dict[str, Any] = dict(n_stack=3) if frames else {}
    make = FrameReplayBuffer if frames else ReplayBuffer
    buffer = make(size, env.observation_space, env.action_space, device="cpu", **kwargs)
    obs = env.reset()
    for _ in range(size):
        action = np.zeros((1, options["actions"]), dtype=np.float32)
        new, reward, done, infos = env.step(action)
        following = infos[0]["terminal_observation"][None] if done[0] else new
        buffer.add(obs, following, action, reward, done, infos)
        obs = new
    size_of = sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))
    if frames:
        size_of += buffer.frames.nbytes

    def block() -> int:
        for _ in range(40):
            buffer.sample(options["batch_size"])
        return 40

    return block, {"bytes_per_transition": float(size_of) / size}


@row("replay-sb3", "a batch from SB3's ReplayBuffer", unit="batch", part="data", allocator=False)
def _(options: dict[str, Any]) -> Made:
    return sampling(options, frames=False)


@row("replay-sb3-allocator", "the same with our allocator", unit="batch", part="data")
def _(options: dict[str, Any]) -> Made:
    return sampling(options, frames=False)


@row("replay-frames", "a batch from FrameReplayBuffer", unit="batch", part="data")
def _(options: dict[str, Any]) -> Made:
    return sampling(options, frames=True)


def augmenting(options: dict[str, Any], apply: Callable[[Any], Any], size: int) -> Made:
    """Batches of stacked uint8 images."""
    import torch as th

    images = th.randint(0, 256, (options["batch_size"], 9, size, size), dtype=th.uint8)

    def block() -> int:
        for _ in range(20):
            apply(images)
        return 20

    return block, {}


def ours(augmentation: Any) -> Callable[[Any], Any]:
    """One of crl's, with a generator of its own."""
    import torch as th

    generator = th.Generator().manual_seed(0)
    return lambda images: augmentation(images, generator)


@row("crop", "RandomCrop(84) of 100x100, uint8", unit="batch", part="data")
def _(options: dict[str, Any]) -> Made:
    from crl import RandomCrop

    return augmenting(options, ours(RandomCrop(84)), 100)


@row("crop-kornia", "kornia's RandomCrop", unit="batch", part="data")
def _(options: dict[str, Any]) -> Made:
    from kornia.augmentation import RandomCrop

    crop = RandomCrop((84, 84))
    return augmenting(options, lambda images: crop(images.float()), 100)


@row("crop-loop", "one image after another", unit="batch", part="data")
def _(options: dict[str, Any]) -> Made:
    import torch as th

    def loop(images: Any) -> Any:
        offsets = th.randint(0, 17, (len(images), 2)).tolist()
        return th.stack([image[:, y : y + 84, x : x + 84] for image, (y, x) in zip(images, offsets, strict=True)])

    return augmenting(options, loop, 100)


@row("shift", "RandomShift(4), uint8", unit="batch", part="data")
def _(options: dict[str, Any]) -> Made:
    from crl import RandomShift

    return augmenting(options, ours(RandomShift(4)), 84)


@row("shift-kornia", "ReplicationPad2d and kornia's RandomCrop", unit="batch", part="data")
def _(options: dict[str, Any]) -> Made:
    import torch as th
    from kornia.augmentation import RandomCrop

    pad, crop = th.nn.ReplicationPad2d(4), RandomCrop((84, 84))
    return augmenting(options, lambda images: crop(pad(images.float())), 84)


# ---- end to end


@row(
    "steps-cartpole",
    "curl-sac on dmc/cartpole-swingup: simulation, rendering, acting and updates",
    unit="agent step",
    part="end to end",
)
def _(options: dict[str, Any]) -> Made:
    import os

    os.environ.setdefault("MUJOCO_GL", "egl")
    from crl.agents import build, resolve
    from crl.envs import make_vec_env

    config = resolve("curl-sac", "dmc/cartpole-swingup", {"algorithm.batch_size": options["batch_size"]})
    env = make_vec_env(config["env"]["id"], seed=0, **config["env"]["kwargs"])
    model, _ = build({**config, "algorithm": {**config["algorithm"], "learning_starts": 300}}, env, seed=0, device="cpu")
    model.learn(300)
    return learning(quiet(model)), {}


# ---- the authors' own updates


def _peer(name: str, allocator: bool) -> None:
    def make(options: dict[str, Any]) -> Made:
        import speed_peers

        block = getattr(speed_peers, name)(options["peers"][name], options["batch_size"], options["actions"], HISTORY)
        return block, {}

    label = f"peer-{name}" + ("-allocator" if allocator else "")
    text = {"curl": "CURL's repository", "drq": "DrQ's repository", "drqv2": "DrQ-v2's repository"}[name]
    ROWS[label] = Row(label, text + (" with our allocator" if allocator else " as shipped"), make, "update", allocator, name)


for _name in ("curl", "drq", "drqv2"):
    _peer(_name, False)
    _peer(_name, True)
