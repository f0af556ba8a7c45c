"""Actions as vectors."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from crl.networks.actions import ActionVectors


def test_continuous_actions_pass():
    vectors = ActionVectors(spaces.Box(-1, 1, (3,), np.float32))
    actions = th.rand(4, 5, 3)
    assert vectors.dim == 3 and th.equal(vectors(actions), actions)


def test_discrete_actions_are_one_hot():
    vectors = ActionVectors(spaces.Discrete(3, start=2))
    assert vectors.dim == 3
    assert vectors(th.tensor([[[2], [4]]])).tolist() == [[[1, 0, 0], [0, 0, 1]]]
    assert vectors(th.tensor([[2]])).dtype == th.float32


def test_several_discrete_actions():
    vectors = ActionVectors(spaces.MultiDiscrete([2, 3]))
    assert vectors.dim == 5
    assert vectors(th.tensor([[1, 0], [0, 2]])).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    assert ActionVectors(spaces.MultiBinary(4))(th.tensor([[1, 0, 1, 1]])).tolist() == [[1, 0, 1, 1]]


def test_wrong_spaces_and_actions():
    with pytest.raises(ValueError, match="choose Box, Discrete"):
        ActionVectors(spaces.Text(3))
    with pytest.raises(ValueError, match=r"must be \(\.\.\., 1\)"):
        ActionVectors(spaces.Discrete(3))(th.zeros(4, 2))
    with pytest.raises(ValueError, match="must be a vector"):
        ActionVectors(spaces.MultiDiscrete([[2, 3]]))
