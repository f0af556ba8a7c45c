import subprocess
import sys

import numpy as np
import pytest

from crl.envs import EnvironmentOptionError, UnknownEnvironmentError, list_envs, make_env, make_vec_env
from crl.envs import crafter as ours
from crl.envs.episode_seeds import episode_seed
from crl.envs.subgoals import HasSubgoals, subgoal_names_of

crafter = pytest.importorskip("crafter")
pytestmark = pytest.mark.filterwarnings("error:.*gym.*")

DO, NOOP = ours.ACTIONS.index("do"), ours.ACTIONS.index("noop")


@pytest.fixture(scope="module")
def env():
    return make_env("crafter/reward", seed=0)


def random_actions(n, seed=0):
    return np.random.default_rng(seed).integers(len(ours.ACTIONS), size=n)


def test_names_are_the_games_and_gym_is_not_imported():
    assert list(ours.ACTIONS) == crafter.constants.actions
    assert list(ours.ACHIEVEMENTS) == crafter.constants.achievements
    assert "gym" not in sys.modules
    assert {"crafter/reward", "crafter/noreward"} <= set(list_envs())


def test_api(env):
    obs, info = env.reset()
    assert env.observation_space.contains(obs) and obs.shape == (3, 64, 64)
    assert isinstance(env.unwrapped, HasSubgoals) and not info["subgoals"].any()
    assert (env.render() == obs.transpose(1, 2, 0)).all()
    assert set(info) == {"subgoals", "achievements", "inventory", "discount"}, "nothing large"


def test_equal_to_the_game_itself(monkeypatch):
    """Pictures, rewards and unlocks of an episode, against crafter's own environment."""
    # vanishing creatures are drawn from a set there: no two processes draw the same
    monkeypatch.setattr(crafter.Env, "_balance_object", lambda *args: None)
    env = make_env("crafter/reward", seed=4)
    env.reset()
    game = crafter.Env(seed=episode_seed(4, 0, 0))
    obs, unlocked = game.reset(), set()
    assert (env.unwrapped._observe() == obs.transpose(2, 0, 1)).all()
    for action in random_actions(60):
        obs, reward, done, theirs = game.step(action)
        mine, own_reward, terminated, truncated, info = env.step(action)
        assert (mine == obs.transpose(2, 0, 1)).all() and own_reward == reward
        assert info["achievements"] == theirs["achievements"] and (terminated or truncated) == done
        new = {name for name, count in theirs["achievements"].items() if count} - unlocked
        assert {ours.ACHIEVEMENTS[k] for k in np.flatnonzero(info["subgoals"])} == new
        unlocked |= new
        if done:
            break
    assert unlocked, "nothing was unlocked: the test shows little"


def test_an_unlock_is_reported_once_and_forgotten_at_the_reset(env):
    env.reset()
    player = env.unwrapped._game._player
    player.achievements["wake_up"] = 1
    assert env.step(NOOP)[4]["subgoals"][ours.ACHIEVEMENTS.index("wake_up")]
    player.achievements["wake_up"] = 2
    assert not env.step(NOOP)[4]["subgoals"].any()
    assert not env.reset()[1]["subgoals"].any()
    env.unwrapped._game._player.achievements["wake_up"] = 1
    assert env.step(NOOP)[4]["subgoals"].sum() == 1, "a new episode, a first time again"


def test_death_terminates_and_length_truncates(env):
    env.reset()
    env.unwrapped._game._player.health = 0
    _, reward, terminated, truncated, info = env.step(NOOP)
    assert terminated and not truncated and info["discount"] == 0 and reward == pytest.approx(-0.9)
    short = make_env("crafter/noreward", seed=0, length=3)
    short.reset()
    ends = [short.step(NOOP)[1:4] for _ in range(3)]
    assert ends == [(0.0, False, False), (0.0, False, False), (0.0, False, True)]
    short.reset()
    short.unwrapped._game._step = 2
    short.unwrapped._game._player.health = 0
    assert short.step(NOOP)[2:4] == (True, False), "who dies in the last step has died"


def test_episodes_of_a_seed_repeat_and_others_differ(env):
    def play(seed):
        frames = [env.reset(seed=seed)[0]]
        return np.stack(frames + [env.step(action)[0] for action in random_actions(20)])

    first, again, other = play(7), play(7), play(8)
    assert (first == again).all() and (first != other).any()


_PLAY = """
import hashlib, numpy as np
junk = [object() for _ in range({junk})]
from crl.envs.crafter import Crafter
env = Crafter()
env.reset(seed=1)
game = env._game
# dark, in a meadow full of zombies: many are to vanish
digest = hashlib.sha256()
for chunk, objs in list(game._world.chunks.items()):
    xmin, xmax, ymin, ymax = chunk
    for x in range(xmin, xmax, 2):
        for y in range(ymin, ymax, 2):
            import crafter
            if game._world[(x, y)] == ("grass", None):
                game._world.add(crafter.objects.Cow(game._world, (x, y)))
for step in range(200):
    obs, *_ = env.step(0)
    digest.update(obs.tobytes())
digest.update(str(sorted(tuple(int(p) for p in obj.pos) for obj in game._world.objects)).encode())
print(digest.hexdigest())
"""


def test_episodes_do_not_depend_on_addresses_in_memory():
    """crafter draws the creature that vanishes from a set of objects; another process would draw another one."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PLAY.format(junk=junk)], capture_output=True, text=True, check=True
        ).stdout.strip()
        for junk in (0, 100_003)
    }
    assert len(digests) == 1


def test_goes_on_exactly_where_it_was(env):
    env.reset(seed=2)
    other = make_env("crafter/reward", seed=3)
    other.reset()
    actions = random_actions(40, seed=1)
    for action in actions[:20]:
        env.step(action)
    other.set_state(env.get_state())
    assert (other.render() == env.render()).all()
    unlocked = env.unwrapped._unlocked.copy()
    for action in actions[20:]:
        mine, theirs = env.step(action), other.step(action)
        assert (mine[0] == theirs[0]).all() and mine[1:4] == theirs[1:4]
        assert (mine[4]["subgoals"] == theirs[4]["subgoals"]).all()
    assert (env.reset()[0] == other.reset()[0]).all()
    assert unlocked.shape == (22,)


def test_a_bare_game_goes_on_to_the_same_next_one():
    """Without seeds for each episode from outside: games are counted from the seed of the first."""
    env, other = ours.Crafter(), ours.Crafter()
    env.reset(seed=5)
    env.reset()
    other.set_state(env.get_state())
    for _ in range(2):
        assert (env.reset()[0] == other.reset()[0]).all()


def test_vectorised():
    vec = make_vec_env("crafter/reward", seed=0, n_envs=2)
    assert subgoal_names_of(vec) == ours.ACHIEVEMENTS
    first = vec.reset()
    assert first.shape == (2, 3, 64, 64) and (first[0] != first[1]).any()


@pytest.mark.parametrize(
    ("env_id", "options", "error", "message"),
    [
        ("crafter/reward", {"size": 8}, EnvironmentOptionError, "at least 9"),
        ("crafter/reward", {"length": 0}, EnvironmentOptionError, "at least 1"),
        ("crafter/reward", {"n_stack": 4}, EnvironmentOptionError, "it has size, length"),
        ("crafter/rewards", {}, UnknownEnvironmentError, "crafter/reward"),
    ],
)
def test_wrong_ids_and_options(env_id, options, error, message):
    with pytest.raises(error, match=message):
        make_env(env_id, **options)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "crafter", None)
    with pytest.raises(ImportError, match=r"pip install 'crl\[crafter\]'"):
        make_env("crafter/reward")
