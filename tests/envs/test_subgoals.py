import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from crl.envs.subgoals import HasSubgoals, subgoal_names_of, subgoals_of


class Two(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    subgoal_names = ("a", "b")


class Three(Two):
    subgoal_names = ("a", "b", "c")


class Without(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)


def test_reports_of_parallel_environments_are_stacked():
    infos = [{"subgoals": np.array([True, False])}, {"subgoals": np.array([False, False])}]
    assert subgoals_of(infos, 2).tolist() == [[True, False], [False, False]]


def test_a_missing_report_names_the_environment():
    with pytest.raises(KeyError, match="environment 1 puts no 'subgoals'"):
        subgoals_of([{"subgoals": np.zeros(2, bool)}, {}], 2)


@pytest.mark.parametrize("report", [np.zeros(3, bool), np.zeros(2, np.int64), np.zeros((1, 2), bool)])
def test_a_wrong_report_says_what_it_has_to_be(report):
    with pytest.raises(ValueError, match=r"has to be bool of shape \(2,\)"):
        subgoals_of([{"subgoals": report}], 2)


def test_names_are_found_through_a_vec_env():
    assert isinstance(Two(), HasSubgoals) and not isinstance(Without(), HasSubgoals)
    assert subgoal_names_of(DummyVecEnv([Two, Two])) == ("a", "b")


@pytest.mark.parametrize(("envs", "message"), [([Two, Three], "different sub-goals"), ([Without], "reports no sub-goals")])
def test_environments_without_common_names_are_refused(envs, message):
    with pytest.raises(ValueError, match=message):
        subgoal_names_of(DummyVecEnv(envs))
