"""
Atari 2600 games of the Arcade Learning Environment (Bellemare et al. 2013, arXiv:1207.4708) as agents see them:
``atari/<Game>``, names as gymnasium's (``atari/Pong``, ``atari/MsPacman``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from crl.envs.atari_ram import labels_of
from crl.envs.errors import EnvironmentOptionError, check_positive

#: the games that gymnasium registers as ``ALE/<Game>-v5``, so that a wrong name is answered without the emulator
_NAMES = """
Adventure AirRaid Alien Amidar Assault Asterix Asteroids Atlantis Atlantis2 Backgammon BankHeist BasicMath BattleZone
BeamRider Berzerk Blackjack Bowling Boxing Breakout Carnival Casino Centipede ChopperCommand CrazyClimber Crossbow
Darkchambers Defender DemonAttack DonkeyKong DoubleDunk Earthworld ElevatorAction Enduro Entombed Et FishingDerby
FlagCapture Freeway Frogger Frostbite Galaxian Gopher Gravitar Hangman HauntedHouse Hero HumanCannonball IceHockey
Jamesbond JourneyEscape Kaboom Kangaroo KeystoneKapers KingKong Klax Koolaid Krull KungFuMaster LaserGates LostLuggage
MarioBros MiniatureGolf MontezumaRevenge MrDo MsPacman NameThisGame Othello Pacman Phoenix Pitfall Pitfall2 Pong
Pooyan PrivateEye Qbert Riverraid RoadRunner Robotank Seaquest SirLancelot Skiing Solaris SpaceInvaders SpaceWar
StarGunner Superman Surround Tennis Tetris TicTacToe3D TimePilot Trondead Turmoil Tutankham UpNDown Venture
VideoCheckers VideoChess VideoCube VideoPinball WizardOfWor WordZapper YarsRevenge Zaxxon
"""
GAMES: tuple[str, ...] = tuple(_NAMES.split())

#: frames of an action
ACTION_REPEAT = 4
#: what each protocol says where an option says nothing
PROTOCOLS: dict[str, dict[str, Any]] = {
    "100k": dict(
        noop_max=30,
        repeat_action_probability=0.0,
        full_action_space=False,
        terminal_on_life_loss=True,
        clip_reward=True,
    ),
    "v5": dict(
        noop_max=0,
        repeat_action_probability=0.25,
        full_action_space=False,
        terminal_on_life_loss=False,
        clip_reward=False,
    ),
}


def game_ids() -> list[str]:
    """All ids, ``atari/<Game>``."""
    return [f"atari/{game}" for game in GAMES]


def game_of(env_id: str) -> str:
    """
    :param env_id: ``atari/<Game>``; capitals, dashes and underscores do not matter
    :return: the game as gymnasium calls it
    :raises ValueError: when there is no such game
    """
    names = {game.lower(): game for game in GAMES}
    game = names.get(env_id.removeprefix("atari/").lower().replace("_", "").replace("-", ""))
    if game is None:
        raise ValueError(f"there is no Atari game {env_id!r}")
    return game


@dataclass(frozen=True)
class AtariSettings:
    """What :func:`settings` makes of options; see there."""

    game: str
    size: int
    n_stack: int
    action_repeat: int
    max_frames: int
    noop_max: int
    repeat_action_probability: float
    full_action_space: bool
    terminal_on_life_loss: bool
    clip_reward: bool


def settings(
    env_id: str,
    *,
    protocol: str = "100k",
    size: int = 84,
    n_stack: int = 4,
    action_repeat: int = ACTION_REPEAT,
    max_frames: int = 108_000,
    noop_max: int | None = None,
    repeat_action_probability: float | None = None,
    full_action_space: bool | None = None,
    terminal_on_life_loss: bool | None = None,
    clip_reward: bool | None = None,
) -> AtariSettings:
    """
    :param env_id: ``atari/<Game>``
    :param protocol: ``"100k"``, of the Atari 100k benchmark (Kaiser et al. 2020, arXiv:1903.00374; CURL, DER, DrQ, SPR): no
        sticky actions, no-ops at the start, lives as episodes and clipped rewards in training. ``"v5"``, of gymnasium's
        ``ALE/<Game>-v5`` (Machado et al. 2018, arXiv:1709.06009): sticky actions, no no-ops, whole games and true rewards in
        training too. Both: 4 frames an action, the minimal set of actions, games of at most 108,000 frames.
    :param size: side of the grey frames, in pixels
    :param n_stack: frames in an observation
    :param action_repeat: frames of an action, rewards summed
    :param max_frames: of a game after its no-ops; reaching it is a truncation
    :param noop_max: a game begins with 0 to ``noop_max - 1`` frames without action (as in CURL's and DER's code; SB3: 1 to
        ``noop_max``); 0 for none. None: the protocol's, and so for all that follow
    :param repeat_action_probability: at each frame, of going on with the last action instead (sticky actions)
    :param full_action_space: all 18 actions instead of those that the game knows
    :param terminal_on_life_loss: the loss of a life ends an episode, in training only
    :param clip_reward: rewards are -1, 0 or 1, in training only
    :return: all of it, for :class:`AtariGame`
    :raises ValueError: when there is no such game
    :raises EnvironmentOptionError: for a value out of range
    """
    if protocol not in PROTOCOLS:
        raise EnvironmentOptionError(f"protocol={protocol!r}: one of {', '.join(PROTOCOLS)}")
    check_positive(size=size, n_stack=n_stack, action_repeat=action_repeat, max_frames=max_frames)
    told = dict(
        noop_max=noop_max,
        repeat_action_probability=repeat_action_probability,
        full_action_space=full_action_space,
        terminal_on_life_loss=terminal_on_life_loss,
        clip_reward=clip_reward,
    )
    chosen = {**PROTOCOLS[protocol], **{name: value for name, value in told.items() if value is not None}}
    for name in ("full_action_space", "terminal_on_life_loss", "clip_reward"):
        if not isinstance(chosen[name], bool):
            raise EnvironmentOptionError(f"{name}={chosen[name]!r}: True or False")
    if chosen["noop_max"] != 0:
        check_positive(noop_max=chosen["noop_max"])
    probability = chosen["repeat_action_probability"]
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0.0 <= probability < 1.0:
        raise EnvironmentOptionError(f"repeat_action_probability={probability!r}: a number from 0 on, less than 1")
    return AtariSettings(game_of(env_id), size, n_stack, action_repeat, max_frames, **chosen)


def load_ale() -> Any:
    """
    ``ale_py``, its games registered with gymnasium, and quiet.

    :raises ImportError: without ale-py or OpenCV; names the extra
    """
    try:
        import ale_py
        import cv2  # noqa: F401 (frames are resized with it)
    except ModuleNotFoundError as error:
        raise ImportError(f"Atari games need the extra 'atari': pip install 'crl[atari]' ({error})") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # before the first one prints its banner
    gym.register_envs(ale_py)
    return ale_py


def uniform_draw(random: Callable[[], int], n: int) -> int:
    """
    A number from 0 to ``n - 1``, from 32-bit numbers as GCC's ``std::uniform_int_distribution`` takes it (Lemire 2019,
    arXiv:1805.10941).

    :param random: gives the next 32-bit number
    :param n: at least 1
    """
    product = random() * n
    while product % 2**32 < 2**32 % n:
        product = random() * n
    return product >> 32


class AtariGame(gym.Env[np.ndarray, Any]):
    """
    Whole games with true rewards. Observations: ``(n_stack, size, size)`` uint8, grey, oldest first, zeros before a game's
    first frame. A frame is the maximum of the last two of the ``action_repeat`` that an action takes (sprites flicker),
    resized by area. Where a game ends within an action, what was drawn until then counts.

    Everything that a seeded game draws (no-ops, sticky actions) comes from ``reset(seed=...)``, by the same numbers as in
    ale-py's own vector environment: games are the same there (see :class:`crl.envs.atari_vector.AtariVecEnv`).

    ``info``: ``lives``; ``frames`` since the no-ops; ``labels``, variables of the game's memory where their addresses are
    known (:mod:`crl.envs.atari_ram`).

    :param settings: from :func:`settings`; those for training are left to :class:`crl.envs.atari_training.AtariTraining`
    :raises ImportError: without ale-py; names the extra
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}
    render_mode = "rgb_array"

    def __init__(self, settings: AtariSettings) -> None:
        load_ale()
        env: Any = gym.make(
            f"ALE/{settings.game}-v5",
            frameskip=1,  # the frames of an action are counted here: not twice
            repeat_action_probability=settings.repeat_action_probability,
            full_action_space=settings.full_action_space,
            max_num_frames_per_episode=0,  # nor games cut where nobody is told
            render_mode="rgb_array",
            disable_env_checker=True,
        ).unwrapped
        self.settings = settings
        #: the emulator
        self.ale = env.ale
        self._atari = env
        self._actions = self.ale.getLegalActionSet() if settings.full_action_space else self.ale.getMinimalActionSet()
        self.action_space = spaces.Discrete(len(self._actions))
        self.observation_space = spaces.Box(0, 255, (settings.n_stack, settings.size, settings.size), np.uint8)
        self._screen, self._earlier = (np.empty(self.ale.getScreenDims(), np.uint8) for _ in range(2))
        self._frames = np.zeros(self.observation_space.shape, np.uint8)
        self._elapsed = 0
        self._random = np.random.RandomState()  # a Mersenne Twister, seeded as C++ seeds its own

    def _draw(self) -> int:
        return int(self._random.randint(2**32, dtype=np.uint32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """A new game; see :class:`gymnasium.Env`."""
        super().reset(seed=seed)
        if seed is not None:
            self._random.seed(seed % 2**32)
            self.ale.setInt("random_seed", seed % 2**31)
            self._atari.load_game()  # the emulator takes a seed no other way
        self.ale.reset_game()
        for _ in range(uniform_draw(self._draw, self.settings.noop_max) if self.settings.noop_max else 0):
            self.ale.act(0)
            if self.ale.game_over():
                self.ale.reset_game()
        self._elapsed = 0
        self._frames = np.zeros_like(self._frames)
        self.ale.getScreenGrayscale(self._screen)
        self._append()
        return self._frames, self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See :class:`gymnasium.Env`."""
        chosen, repeat = self._actions[int(action)], self.settings.action_repeat
        reward, two = 0, False
        for left in reversed(range(repeat)):
            reward += self.ale.act(chosen)
            self._elapsed += 1
            terminated = self.ale.game_over()
            truncated = self._elapsed >= self.settings.max_frames and not terminated
            if terminated or truncated or left == 0:
                break
            if left == 1:
                self.ale.getScreenGrayscale(self._earlier)
                two = True
        self.ale.getScreenGrayscale(self._screen)
        if two:
            np.maximum(self._screen, self._earlier, out=self._screen)
        self._append()
        return self._frames, float(reward), terminated, truncated, self._info()

    def render(self) -> np.ndarray:
        """The screen in colours, ``(210, 160, 3)`` uint8 in most games."""
        return np.asarray(self.ale.getScreenRGB())

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, ``NOOP`` first."""
        return [action.name for action in self._actions]

    def _append(self) -> None:
        import cv2

        size = self.settings.size
        frame = cv2.resize(self._screen, (size, size), interpolation=cv2.INTER_AREA)
        self._frames = np.concatenate([self._frames[1:], frame[None]])

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"lives": self.ale.lives(), "frames": self._elapsed}
        labels = labels_of(self.settings.game)
        if labels:
            memory = self.ale.getRAM()
            info["labels"] = {name: int(memory[address]) for name, address in labels.items()}
        return info

    def get_state(self) -> dict[str, Any]:
        """Everything that the future depends on: the emulator with its random stream, frames, no-ops to come."""
        return {
            "game": self.settings.game,
            "ale": self.ale.cloneState(include_rng=True),
            "elapsed": self._elapsed,
            "frames": self._frames.copy(),
            "random": self._random.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Go on exactly where :meth:`get_state` was called. (What :meth:`render` shows is right from the next step on.)

        :param state: from :meth:`get_state`
        :raises ValueError: when it is another game's
        """
        if state["game"] != self.settings.game:
            raise ValueError(f"this is {self.settings.game}, the state is of {state['game']}")
        self.ale.restoreState(state["ale"])
        self._elapsed, self._frames = state["elapsed"], state["frames"].copy()
        self._random.set_state(state["random"])
