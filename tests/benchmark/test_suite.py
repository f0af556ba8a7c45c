"""Suites are data; a wrong file says what is wrong with it."""

import pytest

from crl.agents.recipes import resolve
from crl.benchmark.published import published
from crl.benchmark.suite import SuiteError, list_suites, load_suite
from crl.envs.atari_scores import RANDOM_AND_HUMAN, human_normalised
from crl.envs.make import check_env_id

GOOD = """
text: mine
env_steps: 100
eval_every: 50
eval_episodes: 2
set: {algorithm.gamma: 0.9}
tasks:
  - {env: toy/reach, low: 0, high: 50}
  - {env: toy/reach, label: busy, low: 0, high: 50, set: {env.kwargs.distractors: 4}}
"""


@pytest.mark.parametrize("name", list_suites())
def test_every_task_can_be_made(name):
    suite = load_suite(name)
    # an agent that can act there
    agent = {"dmc-": "drqv2", "atar": "der", "craf": "ppo-crafter", "agen": "ppo-crafter"}.get(name[:4], "curl-sac")
    for task in suite.tasks:
        config = resolve(agent, task.env, suite.overrides(task))
        check_env_id(task.env, config["env"]["kwargs"])
        assert config["train"]["env_steps"] == suite.env_steps and config["train"]["eval_episodes"] == suite.eval_episodes


def test_protocols():
    assert [task.env for task in load_suite("dmc100k").tasks] == [task.env for task in load_suite("dmc500k").tasks]
    assert len(load_suite("dmc100k").tasks) == 6 and load_suite("dmc500k").env_steps == 500_000
    assert [len(load_suite(f"dmc-{level}").tasks) for level in ("easy", "medium", "hard")] == [9, 11, 3]


def test_atari_scores_are_between_random_actions_and_people():
    suite = load_suite("atari100k")
    assert len(suite.tasks) == 26 and suite.env_steps == 4 * 100_000
    assert all(suite.overrides(task)["train.final_episodes"] == 100 for task in suite.tasks)
    for task in suite.tasks:
        known = {row.method: row.mean for row in published(task.env, suite.env_steps)}
        assert (task.low, task.high) == (known["Random"], known["Human"]) == RANDOM_AND_HUMAN[task.env.removeprefix("atari/")]
        assert (human_normalised(task.env, task.low), human_normalised(task.env, task.high)) == (0.0, 1.0)
    assert human_normalised("atari/Frostbite", 1181.3) == pytest.approx((1181.3 - 65.2) / (4334.7 - 65.2))
    assert human_normalised("atari/Tennis", 3.0) is None and human_normalised("toy/reach", 3.0) is None


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text(GOOD)
    suite = load_suite(str(tmp_path / "mine.yaml"))
    assert suite.name == "mine" and [task.label for task in suite.tasks] == ["toy/reach", "busy"]
    fields = suite.overrides(suite.tasks[1])
    assert fields["env.kwargs.distractors"] == 4 and fields["algorithm.gamma"] == 0.9 and fields["train.env_steps"] == 100


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("eval_every: 50", "eval_evry: 50", ["lacks eval_every", "unknown eval_evry"]),
        ("env_steps: 100", "env_steps: ten", ["env_steps is 'ten'", "whole number"]),
        ("env_steps: 100", "env_steps: 0", ["at least 1"]),
        ("label: busy, ", "", ["two tasks are called toy/reach"]),
        ("low: 0, high: 50}", "low: 50, high: 50}", ["task 1", "low below high"]),
        ("set: {algorithm.gamma: 0.9}", "set: 3", ["set is a mapping"]),
        ("text: mine", "text: mine: yours", ["cannot be read"]),
        ("text: mine", "text: mine\nagents: [sac]", ["agents is a mapping"]),
    ],
)
def test_wrong_files(tmp_path, old, new, words):
    assert old in GOOD
    (tmp_path / "bad.yaml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(SuiteError) as error:
        load_suite(str(tmp_path / "bad.yaml"))
    assert all(word in str(error.value) for word in [*words, "bad.yaml"])


def test_unknown_suite():
    with pytest.raises(SuiteError, match="Nearest: dmc100k"):
        load_suite("dmc10k")
    with pytest.raises(SuiteError, match="cannot be read"):
        load_suite("nowhere.yaml")
