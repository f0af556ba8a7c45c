"""A replay buffer for SB3 that stores each frame once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from crl.contract import Augmentation, check_augmentation
from crl.limits import free_memory
from crl.replay.frame_store import FrameStore
from crl.replay.stacking import check_frames, check_shift, first_stack, infer_n_stack
from crl.replay.transfer import to_device

#: one extra (terminal) frame is expected for so many transitions
_STEPS_PER_EPISODE = 100


class Stacks(NamedTuple):
    """Which frames make up a number of observations; three arrays of one shape."""

    newest: np.ndarray
    real: np.ndarray
    env: np.ndarray


class FrameReplayBuffer(ReplayBuffer):
    """
    SB3's replay buffer for stacked images, with every frame stored once: 6 times less memory for stacks of three, 8 times
    for stacks of four. Under equal numpy seeds ``sample()`` returns what SB3's ReplayBuffer (``n_steps=1``),
    NStepReplayBuffer and, for Dict observations with one image, DictReplayBuffer return.

    Use it by ``replay_buffer_class=FrameReplayBuffer, replay_buffer_kwargs=dict(...)``. Nothing is allocated before the first
    ``add``. An observation that does not continue its predecessor (a second ``learn()``, ``set_env``, a loaded buffer) opens a
    new segment, across which neither n-step returns nor sequences reach.

    :param buffer_size: transitions, of all environments together
    :param observation_space: channels-first uint8 images, frames stacked along the channels, oldest first; or a Dict of which
        one entry is such an image (the others are stored plainly)
    :param action_space: any that SB3 knows
    :param device: of the sampled tensors
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: not to be used
    :param handle_timeout_termination: as SB3: time limits do not count as terminal
    :param n_stack: frames in one observation; needed where the channels do not tell (4 may be 4 grey frames or one RGBA)
    :param n_steps: length of n-step returns
    :param gamma: discount of n-step returns
    :param augment: applied to observations and next observations, drawn independently, on ``device``
    :param folder: keep frames in files in this folder instead of memory. They are scratch files, removed with the buffer:
        ``model.save_replay_buffer`` saves everything, frames included.
    :param image_key: key of the image in a Dict; None finds the only one
    :raises ValueError: for spaces and options that do not fit, in words
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_stack: int | None = None,
        n_steps: int = 1,
        gamma: float = 0.99,
        augment: Augmentation | None = None,
        folder: str | Path | None = None,
        image_key: str | None = None,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError(
                "optimize_memory_usage=True is not needed: FrameReplayBuffer stores each frame once anyway, which saves more, "
                "and keeps time limits right. Leave the option out"
            )
        if n_steps < 1 or not 0.0 <= gamma <= 1.0:
            raise ValueError(f"n_steps={n_steps}, gamma={gamma}: n_steps is at least 1 and gamma in [0, 1]")
        check_augmentation(augment)
        # Not ReplayBuffer.__init__: it would allocate two copies of every observation
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.image_key = _find_image(observation_space, image_key)
        image = observation_space if self.image_key is None else observation_space[self.image_key]  # type: ignore[index]
        self.image_space = check_frames(image)
        self.n_stack = infer_n_stack(self.image_space.shape[0], n_stack)
        self.frame_shape = (self.image_space.shape[0] // self.n_stack, *self.image_space.shape[1:])
        if n_steps > 1 and self.image_key is not None:
            raise ValueError("n-step returns of Dict observations are not supported, as in SB3: use n_steps=1")
        if augment is not None:
            # What does not fit these images must fail now, not at the first sample thousands of steps later
            augment(th.zeros(1, *self.image_space.shape, dtype=th.uint8), th.Generator().manual_seed(0))
        self.n_steps = n_steps
        self.gamma = gamma
        self.augment = augment
        self.folder = folder
        self.frames: FrameStore | None = None
        self._generator: th.Generator | None = None
        #: of a saved buffer, until the generator is asked for: which device it will be on is not known before
        self._generator_state: th.Tensor | None = None
        #: frames from these numbers on are kept although no transition needs them any more (a checkpoint does)
        self.pinned = np.full(n_envs, np.iinfo(np.int64).max)

    # ---- storage

    def _expected_frames(self) -> int:
        return self.buffer_size + self.buffer_size // _STEPS_PER_EPISODE + 2 * self.n_stack

    def forecast(self) -> dict[str, int]:
        """
        Bytes that the full buffer will take, with one episode end per 100 steps.

        :return: ``frames`` (memory, or disk with ``folder``), ``rest`` and ``total``
        """
        n_frames = self._expected_frames()
        chunk = FrameStore.chunk_frames(self.frame_shape, n_frames)
        frames = FrameStore.n_chunks(n_frames, chunk, self.n_envs) * chunk * int(np.prod(self.frame_shape))
        step = 8 + 1 + 1 + 1 + 3 * 4 + self.action_dim * np.dtype(self._action_dtype).itemsize
        for key, shape in self._other_keys().items():
            step += 2 * int(np.prod(shape)) * np.dtype(self.observation_space[key].dtype).itemsize  # type: ignore[index]
        rest = int(step) * self.buffer_size * self.n_envs
        return {"frames": frames, "rest": rest, "total": frames + rest}

    @property
    def _action_dtype(self) -> Any:
        return self._maybe_cast_dtype(self.action_space.dtype)

    def _other_keys(self) -> dict[str, tuple[int, ...]]:
        if self.image_key is None:
            return {}
        return {key: shape for key, shape in self.obs_shape.items() if key != self.image_key}  # type: ignore[attr-defined]

    def _allocate(self) -> None:
        need = self.forecast()
        memory = need["rest"] + (0 if self.folder is not None else need["frames"])
        available = free_memory()
        if memory > available:
            raise MemoryError(
                f"the replay buffer of {self.buffer_size * self.n_envs} transitions needs {memory / 1e9:.1f} GB when full and "
                f"{available / 1e9:.1f} GB are free: lower buffer_size to "
                f"{int(self.buffer_size * self.n_envs * available / memory)} or keep frames on disk, "
                "replay_buffer_kwargs=dict(folder=...)"
            )
        if self.folder is not None:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            free = psutil.disk_usage(str(self.folder)).free
            if need["frames"] > free:
                raise MemoryError(
                    f"the frames need {need['frames'] / 1e9:.1f} GB in {self.folder} and {free / 1e9:.1f} GB are free there: "
                    "lower buffer_size, or choose a folder on a larger disk"
                )
        size, n_envs = self.buffer_size, self.n_envs
        self.frames = FrameStore(self.frame_shape, n_envs, self._expected_frames(), self.folder)
        self.actions = np.zeros((size, n_envs, self.action_dim), dtype=self._action_dtype)
        self.rewards = np.zeros((size, n_envs), dtype=np.float32)
        self.dones = np.zeros((size, n_envs), dtype=np.float32)
        self.timeouts = np.zeros((size, n_envs), dtype=np.float32)
        #: number of the newest frame of each transition's observation; its next observation adds the one after
        self.newest = np.zeros((size, n_envs), dtype=np.int64)
        #: real frames in the observation's stack
        self.real = np.zeros((size, n_envs), dtype=np.uint8)
        #: whether missing frames are zeros, else they repeat the oldest real one
        self.zero_padded = np.zeros((size, n_envs), dtype=bool)
        #: the episode goes on after this transition, but the buffer does not know how
        self.cut = np.zeros((size, n_envs), dtype=bool)
        self.others = {
            key: np.zeros((2, size, n_envs, *shape), dtype=self.observation_space[key].dtype)  # type: ignore[index]
            for key, shape in self._other_keys().items()
        }
        # the last next observation of each environment, and whether its episode is still open
        self._last = np.zeros((n_envs, *self.image_space.shape), dtype=np.uint8)
        self._open = np.zeros(n_envs, dtype=bool)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.frames = None

    def add(
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        next_obs: np.ndarray | dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one transition of each environment; as SB3's ``add``.

        :param obs: ``(n_envs, n_stack * channels, height, width)`` uint8, or a Dict of arrays
        :param next_obs: where the step led, the terminal observation included
        :param action: ``(n_envs, ...)``
        :param reward: ``(n_envs,)``
        :param done: ``(n_envs,)``
        :param infos: ``TimeLimit.truncated`` is read
        :raises ValueError: when an observation is not its predecessor shifted by one frame, or not what the space declares;
            nothing is stored then
        :raises MemoryError: at the first call, when the full buffer would not fit
        """
        images, next_images = self._image_of(obs), self._image_of(next_obs)
        for array in (images, next_images):
            self._check_images(array)
        for env in range(self.n_envs):
            check_shift(images[env], next_images[env], self.frame_shape[0])
        if self.frames is None:
            self._allocate()
        pos = self.pos
        starts = [self._observe(env, images[env], next_images[env]) for env in range(self.n_envs)]
        for env, (newest, real, zero_padded) in enumerate(starts):
            self.newest[pos, env], self.real[pos, env], self.zero_padded[pos, env] = newest, real, zero_padded
        self.actions[pos] = np.asarray(action).reshape(self.n_envs, self.action_dim)
        self.rewards[pos] = reward
        self.dones[pos] = done
        self.cut[pos] = False
        if self.handle_timeout_termination:
            self.timeouts[pos] = [info.get("TimeLimit.truncated", False) for info in infos]
        for key, stored in self.others.items():
            for i, source in enumerate((obs, next_obs)):
                stored[i, pos] = np.asarray(source[key]).reshape(stored.shape[2:])
        self._last[:] = next_images
        self._open[:] = ~np.asarray(done, dtype=bool)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def _image_of(self, obs: Any) -> np.ndarray:
        return np.asarray(obs if self.image_key is None else obs[self.image_key])

    def _check_images(self, images: np.ndarray) -> None:
        shape = (self.n_envs, *self.image_space.shape)
        if images.shape != shape:
            raise ValueError(
                f"observations of shape {images.shape}, but the buffer is for (n_envs, channels, height, width) {shape}. "
                "A buffer keeps the number of environments that it was made for: for another number make a new one"
            )
        if images.dtype != np.uint8:
            raise ValueError(
                f"observations of type {images.dtype}, though their space declares uint8; stored, their fractions would be "
                "lost. Let the environment return uint8 in 0..255"
            )

    def _observe(self, env: int, obs: np.ndarray, next_obs: np.ndarray) -> tuple[int, int, bool]:
        """Append what is new of one environment's two observations; number, real frames and padding of the first."""
        assert self.frames is not None
        channels = self.frame_shape[0]
        previous = (self.pos - 1) % self.buffer_size
        self._release(env)
        if self._open[env] and np.array_equal(obs, self._last[env]):
            newest = int(self.newest[previous, env]) + 1
            real = min(int(self.real[previous, env]) + 1, self.n_stack)
            zero_padded = bool(self.zero_padded[previous, env])
        else:
            if self._open[env]:
                self.cut[previous, env] = True
            frames = obs.reshape(self.n_stack, *self.frame_shape)
            real, zero_padded = first_stack(frames)
            for frame in frames[self.n_stack - real :]:
                newest = self.frames.append(env, frame)
        self.frames.append(env, next_obs[-channels:])
        return newest, real, zero_padded

    def _release(self, env: int) -> None:
        """Let go of frames that only the transition about to be overwritten needs."""
        assert self.frames is not None
        if self.full:
            oldest = (self.pos + 1) % self.buffer_size
            first = int(self.newest[oldest, env]) - int(self.real[oldest, env]) + 1
            if self.buffer_size == 1:
                # the only slot is the one being written: its next observation may be this one's observation
                first = int(self.newest[0, env]) + 2 - self.n_stack
            self.frames.release(env, min(max(first, 0), int(self.pinned[env])))

    # ---- sampling

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None, env_inds: np.ndarray | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        if env_inds is None:
            # The same draw at the same place as in SB3
            env_inds = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))  # noqa: NPY002
        if self.n_steps > 1:
            return self._n_step_samples(batch_inds, env_inds, env)
        obs, next_obs = self._both(batch_inds, env_inds)
        return self._samples(
            obs,
            next_obs,
            batch_inds,
            batch_inds,
            env_inds,
            (self.dones[batch_inds, env_inds] * (1 - self.timeouts[batch_inds, env_inds])).reshape(-1, 1),
            self._normalize_reward(self.rewards[batch_inds, env_inds].reshape(-1, 1), env),
            None,
            env,
        )

    def _n_step_samples(
        self, batch_inds: np.ndarray, env_inds: np.ndarray, env: VecNormalize | None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        steps = (batch_inds[:, None] + np.arange(self.n_steps)) % self.buffer_size  # (batch, n_steps)
        columns = env_inds[:, None]
        # An n-step return ends at the end of an episode, at a cut, and at the newest transition (after which the oldest lies)
        ends = (self.dones[steps, columns] > 0) | (self.timeouts[steps, columns] > 0) | self.cut[steps, columns]
        ends |= steps == (self.pos - 1) % self.buffer_size
        last = np.where(ends.any(axis=1), ends.argmax(axis=1), self.n_steps - 1)
        counts = np.arange(self.n_steps) <= last[:, None]
        rewards = self._normalize_reward(self.rewards[steps, columns], env)
        # float32 throughout and in SB3's order of operations, so that the last bit agrees
        discounts = self.gamma ** np.arange(self.n_steps, dtype=np.float32).reshape(1, -1)
        returns = (rewards * discounts * counts).sum(axis=1, keepdims=True)
        bootstrap = self.gamma ** counts.sum(axis=1, keepdims=True).astype(np.float32)
        last_inds = (batch_inds + last) % self.buffer_size
        dones = (self.dones[last_inds, env_inds] * (1.0 - self.timeouts[last_inds, env_inds]))[:, None].astype(np.float32)
        obs = self._stacks(self._stack_of(batch_inds, env_inds), self.zero_padded[batch_inds, env_inds])
        after = self._stack_of(last_inds, env_inds, steps_on=1)
        next_obs = self._stacks(after, self.zero_padded[last_inds, env_inds])
        return self._samples(obs, next_obs, batch_inds, last_inds, env_inds, dones, returns, bootstrap, env)

    def _samples(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        inds: np.ndarray,
        next_inds: np.ndarray,
        env_inds: np.ndarray,
        dones: np.ndarray,
        rewards: np.ndarray,
        discounts: np.ndarray | None,
        env: VecNormalize | None,
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """Tensors on the device, normalised and augmented as asked."""
        stored: Any = self.others if self.image_key is not None else None
        everything = []
        for i, (images, at) in enumerate(((obs, inds), (next_obs, next_inds))):
            parts: Any = images
            if self.image_key is not None:
                parts = {key: images if key == self.image_key else stored[key][i][at, env_inds] for key in self.obs_shape}
            everything.append(self._to_device(self._normalize_obs(parts, env)))
        kind: Any = ReplayBufferSamples if self.image_key is None else DictReplayBufferSamples
        return kind(
            observations=everything[0],
            actions=self.to_torch(self.actions[inds, env_inds]),
            next_observations=everything[1],
            dones=self.to_torch(dones),
            rewards=self.to_torch(rewards),
            discounts=None if discounts is None else self.to_torch(discounts),
        )

    def _to_device(self, obs: Any) -> Any:
        if isinstance(obs, dict):
            return {key: self._augmented(part) if key == self.image_key else self.to_torch(part) for key, part in obs.items()}
        return self._augmented(obs)

    def to_torch(self, array: np.ndarray, copy: bool = True) -> th.Tensor:
        """See SB3; a GPU is not waited for."""
        return to_device(array, self.device) if self.device.type == "cuda" else super().to_torch(array, copy)

    def _augmented(self, images: np.ndarray) -> th.Tensor:
        # The gathered array is nobody else's: no copy on the CPU
        tensor = to_device(images, self.device)
        return tensor if self.augment is None else self.augment(tensor, self.generator)

    @property
    def generator(self) -> th.Generator:
        """
        Of the augmentations. Seeded from the state of numpy's global generator without drawing from it, so that runs repeat
        under SB3's ``seed=`` and SB3's own draws stay as they are. A loaded buffer goes on where it was saved.
        """
        # Types only: a generator made for "cuda" may name itself "cuda:0", and would be made anew, with equal draws, each time
        if self._generator is None or self._generator.device.type != self.device.type:
            self._generator = th.Generator(self.device)
            saved, self._generator_state = self._generator_state, None
            # a state of another size is that of another kind of device
            if saved is not None and saved.shape == self._generator.get_state().shape:
                self._generator.set_state(saved)
            else:
                state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
                digest = hashlib.sha256(state[1].tobytes() + str(state[2]).encode()).digest()
                self._generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return self._generator

    def _state_of_generator(self) -> th.Tensor | None:
        return self._generator_state if self._generator is None else self._generator.get_state()

    def _stack_of(self, inds: np.ndarray, env_inds: np.ndarray, steps_on: Any = 0) -> Stacks:
        """The observation of a transition, or the one so many steps later in the same segment."""
        newest = self.newest[inds, env_inds] + steps_on
        real = np.minimum(self.real[inds, env_inds].astype(np.int64) + steps_on, self.n_stack)
        return Stacks(newest, real, np.broadcast_to(env_inds, newest.shape))

    def _stacks(self, stacks: Stacks, zero_padded: np.ndarray) -> np.ndarray:
        """``(*shape, n_stack * channels, height, width)`` uint8."""
        assert self.frames is not None
        age = np.arange(self.n_stack - 1, -1, -1)
        real = stacks.real[..., None]
        numbers = stacks.newest[..., None] - np.minimum(age, real - 1)
        images = self.frames.take(np.broadcast_to(stacks.env[..., None], numbers.shape), numbers)
        missing = np.broadcast_to(zero_padded[..., None], numbers.shape) & (age >= real)
        if missing.any():
            images[missing] = 0
        return images.reshape(*stacks.newest.shape, *self.image_space.shape)

    def _both(self, inds: np.ndarray, env_inds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Observations and next observations, which share all frames but one: gathered once, returned as views."""
        assert self.frames is not None
        newest, real, _ = self._stack_of(inds, env_inds)
        age = np.arange(self.n_stack - 1, -2, -1)  # the last one, -1, is the next observation's newest frame
        numbers = newest[:, None] - np.minimum(age, real[:, None] - 1)
        images = self.frames.take(np.broadcast_to(env_inds[:, None], numbers.shape), numbers)
        missing = self.zero_padded[inds, env_inds][:, None] & (age >= real[:, None])
        if missing.any():
            images[missing] = 0
        channels = self.frame_shape[0]
        images = images.reshape(len(inds), -1, *self.image_space.shape[1:])
        return images[:, :-channels], images[:, channels:]

    # ---- for objectives

    def observations_at(self, inds: np.ndarray, env_inds: np.ndarray, steps_on: np.ndarray | int = 0) -> np.ndarray:
        """
        Image observations, not augmented.

        :param inds: int array, slots of transitions
        :param env_inds: int array that broadcasts with it
        :param steps_on: observations so many steps after the transition's; the caller sees to it that they belong to the same
            segment
        :return: ``(*shape, n_stack * channels, height, width)`` uint8
        """
        stacks = self._stack_of(inds, env_inds, steps_on)
        return self._stacks(stacks, np.broadcast_to(self.zero_padded[inds, env_inds], stacks.newest.shape))

    def check_model(self, model: BaseAlgorithm) -> None:
        """
        :param model: that samples from this buffer
        :raises ValueError: when the model's n-step settings differ from the buffer's, which SB3 would ignore silently, or
            when its encoder is built for another size than the augmentation makes
        """
        n_steps = int(getattr(model, "n_steps", 1))
        if n_steps != 1 and n_steps != self.n_steps:
            raise ValueError(
                f"the model asks for n_steps={n_steps}, which SB3 ignores with a replay buffer of your own: pass "
                f"replay_buffer_kwargs=dict(n_steps={n_steps}, gamma={getattr(model, 'gamma', self.gamma)})"
            )
        gamma = float(getattr(model, "gamma", self.gamma))
        if self.n_steps > 1 and gamma != self.gamma:
            raise ValueError(
                f"the model's gamma is {gamma}, the buffer's n-step returns use gamma={self.gamma}: pass "
                f"replay_buffer_kwargs=dict(gamma={gamma})"
            )
        if self.augment is None:
            return
        full = self.image_space.shape
        made = tuple(self.augment(th.zeros(1, *full, dtype=th.uint8), th.Generator().manual_seed(0)).shape[2:])
        for module in model.policy.modules():
            built_for = getattr(module, "input_size", made)  # crl's encoders know; those of others show at the first update
            if made not in (built_for, full[1:]):
                raise ValueError(
                    f"the buffer's {self.augment!r} makes images of {made}, the encoder is built for {built_for}: crop both "
                    f"to one size, for example by features_extractor_kwargs=dict(crop={made[0]})"
                )

    # ---- saving

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in ("frames", "_generator")}
        state["_generator_state"] = self._state_of_generator()
        if self.frames is not None:
            ranges = [self.live_range(env) for env in range(self.n_envs)]
            state["_live"] = [(first, self.frames.export(env, first, head)) for env, (first, head) in enumerate(ranges)]
        return state

    def live_range(self, env: int) -> tuple[int, int]:
        """
        :param env: index of the environment
        :return: numbers of the oldest frame that a transition needs, and of the frame that will come next
        """
        assert self.frames is not None
        oldest = self.pos if self.full else 0
        first = int(self.newest[oldest, env]) - int(self.real[oldest, env]) + 1
        return first, int(self.frames.heads[env])

    def book_keeping(self) -> dict[str, Any]:
        """All of the state but the frames (and what the constructor was given): small, for checkpoints."""
        names = ("actions", "rewards", "dones", "timeouts", "newest", "real", "zero_padded", "cut", "others", "_last", "_open")
        state: dict[str, Any] = {"pos": self.pos, "full": self.full}
        state["generator"] = self._state_of_generator()
        if self.frames is not None:
            state |= {name: getattr(self, name) for name in names}
        return state

    def restore(self, book_keeping: dict[str, Any], frames: list[tuple[int, np.ndarray]]) -> None:
        """
        Go on from a checkpoint.

        :param book_keeping: from :meth:`book_keeping` of a buffer with the same arguments
        :param frames: for each environment the number of the first live frame, and the frames
        """
        state = dict(book_keeping)
        self._generator, self._generator_state = None, state.pop("generator")
        self.__dict__.update(state)
        self.frames = None
        if frames:
            self.frames = FrameStore(self.frame_shape, self.n_envs, self._expected_frames(), self.folder)
            for env, (first, images) in enumerate(frames):
                self.frames.restore(env, first, images)

    def __setstate__(self, state: dict[str, Any]) -> None:
        live = state.pop("_live", None)
        # no generator yet: SB3 sets the device of a loaded buffer afterwards, and that of the pickle may not exist here
        self.__dict__.update(state)
        self.frames = None
        self._generator = None
        if live is not None:
            self.frames = FrameStore(self.frame_shape, self.n_envs, self._expected_frames(), self.folder)
            for env, (first, frames) in enumerate(live):
                self.frames.restore(env, first, frames)


def _find_image(space: spaces.Space, key: str | None) -> str | None:
    """The key of the image in a Dict space; None for plain images."""
    if not isinstance(space, spaces.Dict):
        if key is not None:
            raise ValueError(f"image_key={key!r}, but the observation is no Dict")
        return None
    images = [name for name, sub in space.spaces.items() if is_image_space(sub)]
    if key is not None:
        if key not in images:
            raise ValueError(f"image_key={key!r}: the images of this Dict observation are {images}")
        return key
    if len(images) != 1:
        if images:
            raise ValueError(f"a Dict observation needs exactly one image, this one has {images}: name it by image_key=")
        shapes = {name: f"{sub.shape} {sub.dtype}" for name, sub in space.spaces.items()}
        raise ValueError(f"a Dict observation needs an image, (channels, height, width) uint8 in 0..255; it has {shapes}")
    return images[0]
