"""Cells, variants, seeds."""

import pytest

from crl.agents.fields import ConfigError
from crl.agents.recipes import RECIPES, resolve
from crl.benchmark.forecast import forecast, hours_of_all, replay_bytes, workers_that_fit
from crl.benchmark.grid import GridError, choose_agents, make_grid, parse_seeds, parse_variants, same_run
from crl.benchmark.suite import Suite, Task, load_suite


def test_every_combination_seed_by_seed():
    cells = make_grid(load_suite("toy"), ["rad-sac", "curl-sac"], [1, 2])
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names)) == 8
    assert names[0] == "rad-sac/toy-reach/seed1" and "curl-sac/toy-reach-busy/seed2" in names
    assert [cell.seed for cell in cells] == [1] * 4 + [2] * 4


def test_variants():
    assert parse_variants([]) == [{}]
    assert parse_variants(["a=1,2", "b=3"]) == [{"a": "1", "b": "3"}, {"a": "2", "b": "3"}]
    arms = make_grid(load_suite("toy"), ["curl-sac"], [1], ["policy.net_arch=64,64"])
    assert {cell.label for cell in arms} == {"curl-sac"} and {cell.overrides["policy.net_arch"] for cell in arms} == {"64,64"}
    assert parse_variants(["policy.net_arch=64,64;128,128"]) == [{"policy.net_arch": v} for v in ("64,64", "128,128")]
    cells = make_grid(load_suite("toy"), ["curl-sac"], [1], ["objective.weight=0.1,1", "algorithm.gamma=0.9"])
    assert {cell.label for cell in cells} == {"curl-sac+objective.weight=0.1", "curl-sac+objective.weight=1"}
    assert all(cell.overrides["algorithm.gamma"] == "0.9" for cell in cells)
    for item in ("gamma", "=1", "a=", "a=1,,2", "a=1,1"):
        with pytest.raises(GridError, match="--set"):
            parse_variants([item])


def test_a_field_that_is_given_twice_is_refused(tmp_path):
    """The last of two would win silently, or every run be made twice."""
    (tmp_path / "best.yaml").write_text("a: 1\n")
    for items in (["a=1", "a=2"], ["a=1,2", "a=3"], ["a=1,2", str(tmp_path / "best.yaml")]):
        with pytest.raises(GridError, match="a is given twice"):
            parse_variants(items)


def test_arms_that_are_the_same_are_refused():
    items = ["objective.temperature=0.1,0.5"]
    with pytest.raises(GridError, match=r"rad-sac: .*0.1 and .*0.5 are one and the same run .*objective.weight=0"):
        make_grid(load_suite("toy"), ["curl-sac", "rad-sac"], [1], items)
    with pytest.raises(GridError, match=r"curl-sac: algorithm.gamma=0.9 and algorithm.gamma=0.90 are one"):
        make_grid(load_suite("toy"), ["curl-sac"], [1], ["algorithm.gamma=0.9,0.90"])
    assert len(make_grid(load_suite("toy"), ["rad-sac"], [1], ["algorithm.gamma=0.9,0.99"])) == 4
    # one without a weight among others is the control
    assert len(make_grid(load_suite("toy"), ["curl-sac"], [1], ["objective.weight=0,1"])) == 4


def test_what_is_wrong_in_a_suite_is_told_with_its_place():
    def suite(env="toy/reach", **fields):
        return Suite("mine", "", 2000, 500, 1, (Task(env, 0, 1, env),), fields=fields)

    with pytest.raises(GridError, match="suite mine, task toy/reech: no environment 'toy/reech'. Nearest: toy/reach"):
        make_grid(suite("toy/reech"), ["sac"], [1])
    with pytest.raises(GridError, match="suite mine, task toy/reach: no field 'algorithm.gama'. Nearest: algorithm.gamma"):
        make_grid(suite(**{"algorithm.gama": 0.9}), ["sac"], [1])
    with pytest.raises(ValueError, match="^no agent 'sca'"):
        make_grid(suite(), ["sca"], [1])
    with pytest.raises(ValueError, match="^no field 'algorithm.gama'"):
        make_grid(suite(), ["sac"], [1], ["algorithm.gama=0.9"])
    with pytest.raises(GridError, match="^suite mine, agents, sac: 101-103: 101 to 200 are for choosing"):
        choose_agents(Suite("mine", "", 1, 1, 1, (), agents={"sac": "101-103"}), [], None)
    assert choose_agents(Suite("mine", "", 1, 1, 1, (), agents={"sac": "101-103"}), ["sac"], [1]) == {"sac": [1]}


def test_agents_that_would_never_learn_are_refused():
    """rl_zoo3's DQN waits for 100,000 agent steps; Atari 100k has no more."""
    with pytest.raises(GridError, match=r"dqn on atari/\S+ never learns.*learning_starts=100000.*--set"):
        make_grid(load_suite("atari100k"), ["der", "dqn"], [1])
    assert make_grid(load_suite("atari100k"), ["dqn"], [1], ["algorithm.learning_starts=2000"])


def test_suites_name_agents_and_seeds():
    suite = load_suite("swingup100k")
    chosen = choose_agents(suite, [], None)
    five, three = [1, 2, 3, 4, 5], [1, 2, 3]
    assert chosen == {
        "sac": five, "rad-sac": five, "curl-sac": five, "contrast-sac": three, "frozen-sac": three, "drq-sac": three
    }  # fmt: skip
    cells = make_grid(suite, chosen)
    assert len(cells) == 24 and [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert {cell.seed for cell in cells if cell.agent == "drq-sac"} == {1, 2, 3}
    assert choose_agents(suite, ["drq-sac", "curl-sac-paper"], None) == {"drq-sac": three, "curl-sac-paper": five}
    assert choose_agents(suite, ["drq-sac"], [7]) == {"drq-sac": [7]}
    with pytest.raises(GridError, match="dmc100k names none"):
        choose_agents(load_suite("dmc100k"), [], None)


def test_unknown_environments_before_anything_runs():
    task = Task("dmc/cartpole-swingupp", 0, 1, "x")
    with pytest.raises(ValueError, match="dmc/cartpole-swingup"):
        make_grid(Suite("mine", "", 100, 50, 1, (task,)), ["curl-sac"], [1])


def test_seeds():
    assert parse_seeds("3") == [1, 2, 3] and parse_seeds("2-4") == [2, 3, 4] and parse_seeds("1,7-8") == [1, 7, 8]
    assert parse_seeds("101-102", tuning=True) == [101, 102]
    for text in ("0", "a", "1-2-3", "1,1", ""):
        with pytest.raises(GridError, match="--seeds"):
            parse_seeds(text)
    with pytest.raises(GridError, match="never reported"):
        parse_seeds("100-101")
    with pytest.raises(GridError, match="to choose hyperparameters there are 101 to 200"):
        parse_seeds("1", tuning=True)


def test_wrong_names_before_anything_runs():
    suite = load_suite("toy")
    with pytest.raises(ValueError, match="Nearest: rad-sac"):
        make_grid(suite, ["rad-sc"], [1])
    with pytest.raises(ConfigError):
        make_grid(suite, ["rad-sac"], [1], ["algorithm.gama=0.9"])
    with pytest.raises(GridError, match="every agent once"):
        choose_agents(suite, ["sac", "sac"], [1])


def test_a_run_with_another_configuration_is_noticed():
    (cell,) = make_grid(load_suite("swingup100k"), ["sac"], [3])
    config = {**resolve("sac", cell.task.env, cell.overrides), "run": {"seed": 3}}
    assert same_run(cell, config) == []
    # fields that did not exist when it was made
    before = {**config, "train": {k: v for k, v in config["train"].items() if k not in ("final_episodes", "eval_envs")}}
    before["objective"] = {k: v for k, v in config["objective"].items() if k != "temperature"}
    assert same_run(cell, before) == []
    other = resolve("sac", cell.task.env, {**cell.overrides, "algorithm.gamma": 0.9})
    assert same_run(cell, {**other, "run": {"seed": 4}}) == ["algorithm.gamma: 0.9 there, 0.99 here", "seed: 4 there, 3 here"]


@pytest.mark.parametrize("agent", RECIPES)
def test_every_recipe_has_a_forecast(agent):
    for env_id in ("dmc/walker-walk", "atari/Pong", "crafter/reward", "lbf/8x8-2p-2f"):
        try:
            config = resolve(agent, env_id)
        except ConfigError:
            continue
        assert replay_bytes(config) >= 0.0
        return
    raise AssertionError(f"{agent} goes with none of them")


def test_hours_of_all():
    assert hours_of_all([], 3) == 0.0
    assert hours_of_all([8.5], 2) == 8.5, "one run takes as long as it takes"
    assert hours_of_all([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert hours_of_all([1.0, 1.0, 1.0], 2) == 2.0
    assert hours_of_all([1.0, 1.0, 3.0], 2) == 4.0, "in the order of starting"
    assert hours_of_all([2.0, 1.0], 8) == 2.0


def test_forecast(tmp_path):
    (cell,) = make_grid(load_suite("swingup100k"), ["sac"], [3])
    table = tmp_path / "measured.csv"
    assert forecast(cell, table).hours is None
    header, row = "agent,env,env_steps,hours\n", "{},dmc/cartpole-swingup,{},{}\n"
    table.write_text(header + "sac,toy/reach,100000,9.0\ncurl-sac,dmc/walker-walk,100000,9.0\n")
    assert forecast(cell, table).hours is None
    # action repeats: 8 of cartpole, 2 of walker, 4 where the row says so
    table.write_text(header + "sac,dmc/walker-walk,50000,2.0\n")
    assert forecast(cell, table)[::3] == (1.0, "sac on dmc/walker-walk"), "of the agent on another task"
    table.write_text(header.replace("\n", ",set\n") + 'sac,dmc/walker-walk,50000,2.0,"{""env.kwargs.action_repeat"": 4}"\n')
    assert forecast(cell, table).hours == 2.0
    table.write_text(header + row.format("curl-sac", 50_000, 1.0))
    assert forecast(cell, table)[::3] == (2.0, "curl-sac on dmc/cartpole-swingup"), "of another agent on the same task, scaled"
    table.write_text(table.read_text() + row.format("sac", 100_000, 0.5))
    assert forecast(cell, table)[::3] == (0.5, "")
    needs = forecast(cell, table)
    config = resolve("sac", cell.task.env, cell.overrides)
    # action repeat 8: an eighth of the buffer is filled
    assert replay_bytes(config) == pytest.approx(12_500 * 3 * 100 * 100, rel=0.03)
    assert needs.memory == pytest.approx(1.3e9 + replay_bytes(config)) and needs.disk < needs.memory
    # what was measured counts where it is more
    rows = "sac,dmc/walker-walk,50000,1.0,9.5\nsac,dmc/reacher-easy,50000,1.0,\nsac,toy/reach,50000,1.0,20\n"
    table.write_text(header.replace("\n", ",memory_gb\n") + rows)
    assert forecast(cell, table).memory == 9.5e9
    # Atari's frames are grey
    (game,) = (c for c in make_grid(load_suite("atari100k"), ["der"], [1]) if c.task.env == "atari/Pong")
    config = resolve("der", game.task.env, game.overrides)
    assert replay_bytes(config) == pytest.approx(100_000 * (84 * 84 * 1.02 + 100))
    assert workers_that_fit([cell], 8, 2, 1e12) == 4
    assert workers_that_fit([cell], 8, 1, 2.5 * needs.memory) == 2
    assert workers_that_fit([cell], 1, 2, 1.0) == 1
