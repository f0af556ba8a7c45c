"""Every algorithm with every objective: the encoder is moved by the objective, and by nothing else that a callback brings."""

from functools import lru_cache

import pytest

import crl.cli
import crl.matrix
from crl.matrix import MODES, ROWS, STEPS, Row, attempt, matrix_lines, watched
from crl.objectives import OBJECTIVES

#: the most usual policy of each algorithm
ONE_EACH = tuple({row.algorithm: row for row in reversed(ROWS)}.values())


def modes_of(row):
    return MODES[:1] if row.algorithm == "TRPO" else MODES


def trained(row, callback=None):
    """Weights and running statistics after a few updates."""
    model = row.make()
    model.learn(STEPS, callback=callback)
    return {key: value.clone() for key, value in model.policy.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


@lru_cache
def trained_without(name):
    return trained(next(row for row in ROWS if row.name == name))


def check(row, objective):
    without = trained_without(row.name)
    for mode in modes_of(row):
        zero = watched(objective, mode, weight=0.0)
        assert same(without, trained(row, zero)), f"{mode}: weight=0 must end bitwise as without callback"
        assert all(item.n_updates > 2 for item in zero.attachments.values()), "the objective must have run"
        assert not zero.reached
        one = watched(objective, mode)
        assert not same(without, trained(row, one))
        assert one.reached == set(one.attachments), f"{mode}: encoders that the objective did not reach"


@pytest.mark.parametrize("row", ONE_EACH, ids=lambda row: row.name)
def test_each_algorithm_once(row):
    check(row, "curl")


@pytest.mark.parametrize("i, objective", list(enumerate(name for name in OBJECTIVES if name != "curl")))
def test_each_objective_once(i, objective):
    """By turns on a replay buffer and on rollouts."""
    check((Row("DQN", "CnnPolicy"), Row("PPO", "CnnPolicy", "shared"))[i % 2], objective)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_everything_with_everything(row, objective):
    check(row, objective)
    cell = attempt(row, objective)
    assert tuple(cell.trained) == modes_of(row) and set(cell.refused) == set(MODES) - set(modes_of(row))


def test_every_kind_of_extractor_is_found():
    wanted = {
        "CrossQ MlpPolicy separate": ("actor", "critic"),
        "TQC MultiInputPolicy separate": ("actor", "critic"),
        "RecurrentPPO MultiInputLstmPolicy split": ("pi", "vf"),
        "TRPO CnnPolicy split": ("pi", "vf"),
    }
    for name, encoders in wanted.items():
        row = next(row for row in ROWS if row.name == name)
        cell = attempt(row, "curl")
        assert cell.encoders == encoders and all(cell.trained[mode] == encoders for mode in modes_of(row))


def test_lines():
    rows = (Row("DQN", "CnnPolicy"), Row("TRPO", "CnnPolicy", "shared"))
    lines = list(matrix_lines(rows, ("curl",)))
    assert lines[1].split() == ["DQN", "CnnPolicy", "one", "q_net", "og"]
    assert lines[2].split() == ["TRPO", "CnnPolicy", "shared", "shared", "o[1]"]
    assert lines[4].startswith("[1] refused, add_gradient: ") and "line search" in lines[4]


def test_what_is_not_reached_is_said(monkeypatch):
    """An objective that sends no gradient to the encoder must not look as if it trained it."""
    curl = OBJECTIVES["curl"]

    class Cut(curl):
        def loss(self, batch, features=None):
            loss, metrics = super().loss(batch, self.encoder(batch.views[0]).detach())
            return loss, metrics

    monkeypatch.setitem(OBJECTIVES, "curl", Cut)
    lines = list(matrix_lines((Row("DQN", "CnnPolicy"),), ("curl",)))
    assert lines[1].split()[-1] == "-[1][2]" and all("not reached: q_net" in note for note in lines[-2:])


@pytest.mark.parametrize("contrib", [True, False])
def test_command_line(contrib, monkeypatch, capsys):
    monkeypatch.setattr(crl.cli, "_prepare", lambda: None)  # the allocator is the test process's
    monkeypatch.setattr(crl.matrix, "ROWS", (Row("A2C", "CnnPolicy", "shared"), Row("TRPO", "CnnPolicy", "shared")))
    monkeypatch.setattr(crl.matrix, "OBJECTIVES", {"curl": OBJECTIVES["curl"]})
    monkeypatch.setattr(crl.matrix, "_has_contrib", lambda: contrib)
    with pytest.raises(SystemExit) as end:
        crl.cli.main(["list", "--matrix"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "A2C" in text
    assert ("line search" in text, "pip install 'crl[contrib]'" in text) == (contrib, not contrib)
