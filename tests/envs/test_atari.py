"""atari/<Game>: the protocol against the bare emulator, training and evaluation, names, states."""

import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor

from crl.envs import EnvironmentOptionError, UnknownEnvironmentError, check_env_id, list_envs, make_env, make_vec_env
from crl.envs.atari import GAMES, AtariGame, settings, uniform_draw
from crl.envs.atari_ram import labels_of
from crl.envs.atari_training import AtariTraining
from crl.envs.env_state import saves_state
from crl.replay import FrameReplayBuffer
from crl.runs.lengths import action_repeat

SEED = 3


def emulator(game, seed, noops=0, sticky=0.0):
    """The bare game after its no-ops."""
    import ale_py
    from ale_py import roms

    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", sticky)
    ale.setInt("random_seed", seed)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    for _ in range(noops):
        ale.act(0)
    return ale


def shrink(screen, size):
    """Mean over the area that each of the small pixels covers: slow, in real numbers."""
    weights = []
    for length in screen.shape:
        edges = np.arange(size + 1) * length / size
        overlap = np.minimum(edges[1:, None], np.arange(1, length + 1)) - np.maximum(edges[:-1, None], np.arange(length))
        weights.append(np.maximum(overlap, 0.0) * size / length)
    return weights[0] @ screen.astype(np.float64) @ weights[1].T


def actions(n, steps, envs=None):
    return np.random.default_rng(0).integers(0, n, steps if envs is None else (steps, envs))


def test_the_protocol_against_the_bare_emulator():
    """Four frames an action and no more, maximum of the last two, grey, resized by area, stacked on zeros, true rewards."""
    env = make_env("atari/Breakout", evaluation=True)
    obs, info = env.reset(seed=SEED)
    random = np.random.RandomState(SEED)
    noops = uniform_draw(lambda: int(random.randint(2**32, dtype=np.uint32)), 30)
    assert 0 < noops < 30 and env.ale.getEpisodeFrameNumber() == noops
    bare = emulator("breakout", SEED, noops)
    want = [np.zeros((84, 84))] * 3 + [shrink(bare.getScreenGrayscale(), 84)]
    chosen = bare.getMinimalActionSet()
    assert env.action_space.n == len(chosen) == 4 and env.get_action_meanings()[0] == "NOOP"
    for step, action in enumerate(actions(4, 60)):
        assert obs.shape == (4, 84, 84) and obs.dtype == np.uint8
        # cv2 rounds halves its own way
        assert max(np.abs(obs[i] - frame).max() for i, frame in enumerate(want[-4:])) <= 0.51
        obs, reward, _, _, info = env.step(action)
        total, screens = 0, []
        for _ in range(4):
            total += bare.act(chosen[action])
            screens.append(bare.getScreenGrayscale())
        want.append(shrink(np.maximum(screens[2], screens[3]), 84))
        assert reward == total and info["lives"] == bare.lives() and info["frames"] == 4 * (step + 1)
    assert bare.getEpisodeFrameNumber() == env.ale.getEpisodeFrameNumber()


def test_labels_are_the_games_memory():
    env = make_env("atari/Pong", evaluation=True)
    env.reset(seed=SEED)
    *_, info = env.step(0)
    memory = env.ale.getRAM()
    assert info["labels"]["ball_x"] == memory[49] and set(info["labels"]) == set(labels_of("Pong"))
    assert labels_of("Frostbite")["score_2"] == 74 and labels_of("Assault") == {}


class Lives(gym.Env):
    """Rewards of 7 and -3, a life lost at steps 3 and 6, the game over at step 9; a life more at step 4."""

    observation_space = gym.spaces.Box(0, 255, (1, 8, 8), np.uint8)
    action_space = gym.spaces.Discrete(2)
    lives = {0: 3, 3: 2, 4: 3, 6: 2, 9: 0}
    t, resets = 0, 0

    def _info(self):
        return {"lives": self.lives[max(t for t in self.lives if t <= self.t)]}

    def reset(self, *, seed=None, options=None):
        self.t, self.resets = 0, self.resets + 1
        return np.full((1, 8, 8), 0, np.uint8), self._info()

    def step(self, action):
        self.t += 1
        return np.full((1, 8, 8), self.t, np.uint8), 7.0 if self.t % 2 else -3.0, self.t == 9, False, self._info()


def test_lives_and_clipped_rewards():
    game = Lives()
    env = AtariTraining(Monitor(game))
    env.reset()
    seen = []
    for _ in range(9):
        obs, reward, terminated, truncated, info = env.step(0)
        seen.append((obs.max(), reward, terminated))
        if terminated:
            first, _ = env.reset()
            assert first.max() == (obs.max() if game.resets == 1 else 0), "the game goes on, or is a new one"
    assert [reward for _, reward, _ in seen] == [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0]
    assert [int(t) for t, _, over in seen if over] == [3, 6, 9] and game.resets == 2
    assert info["episode"]["r"] == 7 * 5 - 3 * 4 and info["episode"]["l"] == 9, "Monitor counts the game"
    env.step(0)
    env.reset()
    assert game.resets == 3, "whoever resets in the middle of a life wants a new game"
    for _ in range(3):
        env.step(0)
    env.reset(seed=4)
    assert game.resets == 4, "a seed is a new game's"


def test_training_and_evaluation():
    """The same game, with lives and clipped rewards or whole and with true ones."""
    train, whole = (make_vec_env("atari/Breakout", seed=SEED, evaluation=evaluation) for evaluation in (False, True))
    whole.env_method("begin_at", SEED, 0)
    whole.envs[0].get_wrapper_attr("set_wrapper_attr")("evaluation", False)  # now of the same stream
    a, b = train.reset(), whole.reset()
    lives, score, deaths = 5, 0.0, 0
    for step in range(400):
        assert (a == b).all()
        # always to the right: the ball is lost soon
        action = np.array([[1, 2][step % 2]])
        a, clipped, lost, infos = train.step(action)
        b, reward, over, whole_infos = whole.step(action)
        score += reward[0]
        assert clipped[0] == np.sign(reward[0]) and infos[0]["lives"] == whole_infos[0]["lives"]
        assert lost[0] == (infos[0]["lives"] < lives)
        if lost[0] and not over[0]:
            deaths += 1
            assert "episode" not in infos[0] and (infos[0]["terminal_observation"] == a[0]).all()
        lives = infos[0]["lives"]
        if over[0]:
            break
    assert over[0] and deaths == 4
    assert infos[0]["episode"]["r"] == score and infos[0]["episode"]["l"] == step + 1 == whole_infos[0]["episode"]["l"]


def test_the_limit_of_frames_is_a_truncation():
    env = make_env("atari/Pong", seed=SEED, max_frames=42)
    env.reset()
    ends = [env.step(0)[2:4] for _ in range(11)]
    assert ends == [(False, False)] * 10 + [(False, True)]
    vec = make_vec_env("atari/Pong", max_frames=8)
    vec.reset()
    vec.step([0])
    *_, dones, infos = vec.step([0])
    assert dones[0] and infos[0]["TimeLimit.truncated"] and infos[0]["episode"]["l"] == 2


def test_the_v5_protocol():
    """Sticky actions as the emulator has them, no no-ops, whole games and true rewards in training too."""
    env = make_env("atari/Breakout", protocol="v5")
    assert isinstance(env, AtariGame)
    env.reset(seed=SEED)
    bare = emulator("breakout", SEED, sticky=0.25)
    assert env.ale.getEpisodeFrameNumber() == 0
    chosen, moved = bare.getMinimalActionSet(), 0
    still = emulator("breakout", SEED)
    for action in actions(4, 30):
        env.step(action)
        for _ in range(4):
            bare.act(chosen[action])
            still.act(chosen[action])
        assert (env.ale.getRAM() == bare.getRAM()).all()
        moved += (still.getRAM() != bare.getRAM()).any()
    assert moved > 0, "actions stuck"
    assert isinstance(make_env("atari/Breakout", protocol="v5", clip_reward=True), AtariTraining)
    assert make_env("atari/Breakout", full_action_space=True).action_space.n == 18
    assert settings("atari/Pong").repeat_action_probability == 0.0 and settings("atari/Pong").noop_max == 30


def go_on(env, steps=60):
    out = []
    for action in actions(env.action_space.n, steps, env.num_envs):
        obs, rewards, dones, infos = env.step(action)
        games = [info["episode"]["r"] for info in infos if "episode" in info]
        out.append((obs.tobytes(), rewards.tobytes(), dones.tobytes(), games))
    return out


@pytest.mark.parametrize("game, options", [("Breakout", {}), ("Pong", dict(protocol="v5", max_frames=300))])
def test_states(game, options):
    """In the middle of a game, with its random stream, through pickle, in a fresh environment."""
    make = lambda seed: make_vec_env(f"atari/{game}", seed=seed, **options)  # noqa: E731
    env, fresh = make(SEED), make(SEED + 1)
    env.reset()
    fresh.reset()
    go_on(env, 37)
    assert env.env_method("saves_state") == [True] and saves_state(env.envs[0])
    state = pickle.loads(pickle.dumps(env.env_method("get_state")[0]))
    want = go_on(env)
    assert any(np.frombuffer(dones, bool).any() for _, _, dones, _ in want), "an end must fall within the test"
    fresh.env_method("set_state", state)
    assert go_on(fresh) == want
    with pytest.raises(ValueError, match=f"the state is of {game}"):
        make_vec_env("atari/Freeway", **options).env_method("set_state", state)


def test_replay_over_lost_lives_equals_sb3s():
    """The first stack of a life is the last one of the life before: four frames that no zeros or repeats pad."""
    env = make_vec_env("atari/Breakout", seed=SEED, n_envs=2)
    args = (400, env.observation_space, env.action_space, "cpu")
    ours, theirs = FrameReplayBuffer(*args, n_envs=2, n_stack=4), ReplayBuffer(*args, n_envs=2)
    obs, ends = env.reset(), 0
    for action in actions(env.action_space.n, 140, 2):
        new, rewards, dones, infos = env.step(action)
        next_obs = new.copy()
        for i in np.flatnonzero(dones):
            next_obs[i] = infos[i]["terminal_observation"]
        for buffer in (ours, theirs):
            buffer.add(obs, next_obs, action, rewards, dones, infos)
        obs, ends = new, ends + dones.sum()
    assert ends >= 3
    for got, want in zip(*[[np.random.seed(0), buffer.sample(256)][1] for buffer in (ours, theirs)], strict=True):
        assert (got is None and want is None) or (got == want).all()


def test_sb3_accepts_it():
    check_env(make_env("atari/Pong", seed=0))


def test_names_are_gymnasiums():
    import ale_py

    gym.register_envs(ale_py)
    known = {name.removeprefix("ALE/").removesuffix("-v5") for name in gym.registry if name.startswith("ALE/")}
    assert set(GAMES) == {name for name in known if "-" not in name}
    for name in ("atari/KungFuMaster", "atari/kung-fu-master", "atari/kung_fu_master"):
        assert settings(name).game == "KungFuMaster"
    assert "atari/MsPacman" in list_envs()


@pytest.mark.parametrize(
    "env_id, options, error, text",
    [
        ("atari/Frostbit", {}, UnknownEnvironmentError, "no Atari game 'atari/Frostbit'. Nearest: atari/Frostbite"),
        ("Frostbite", {}, UnknownEnvironmentError, "atari/Frostbite"),
        ("atari/Pong", dict(sticky=0.25), EnvironmentOptionError, "no option sticky; it has protocol, size, n_stack"),
        ("atari/Pong", dict(protocol="v4"), EnvironmentOptionError, "protocol='v4': one of 100k, v5"),
        ("atari/Pong", dict(n_stack=0), EnvironmentOptionError, "n_stack=0"),
        ("atari/Pong", dict(noop_max=-1), EnvironmentOptionError, "noop_max=-1"),
        ("atari/Pong", dict(clip_reward=1), EnvironmentOptionError, "clip_reward=1: True or False"),
        ("atari/Pong", dict(repeat_action_probability=1.0), EnvironmentOptionError, "repeat_action_probability=1.0"),
    ],
)
def test_wrong_names_and_options(env_id, options, error, text):
    for function in (check_env_id, lambda env_id, options: make_vec_env(env_id, **options)):
        with pytest.raises(error, match=text):
            function(env_id, options)


def test_native_is_for_atari():
    with pytest.raises(EnvironmentOptionError, match="only atari/<Game> has"):
        make_vec_env("toy/reach", native=True)
    with pytest.raises(EnvironmentOptionError, match="choose one"):
        make_vec_env("atari/Pong", native=True, subprocess=True)


def test_without_the_extra():
    """Listing and checking go without it; making says what to install."""
    code = """
import sys
sys.modules["ale_py"] = None
from crl.envs import check_env_id, list_envs, make_env, make_vec_env
check_env_id("atari/Pong", {"protocol": "v5"})
assert "atari/Pong" in list_envs()
for function, options in ((make_env, {}), (make_vec_env, {}), (make_vec_env, {"native": True})):
    try:
        function("atari/Pong", **options)
    except ImportError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.count("pip install 'crl[atari]'") == 3


def test_agent_steps_are_four_frames():
    assert action_repeat({"env": {"id": "atari/Pong", "kwargs": {}}}) == 4
    assert action_repeat({"env": {"id": "atari/Pong", "kwargs": {"action_repeat": 2}}}) == 2
