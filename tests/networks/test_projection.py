import copy

import pytest
import torch as th
import torch.nn.functional as F
from torch import nn

from crl.networks import check_widths, ema_copy, projection


def test_layers_against_their_definition():
    th.manual_seed(0)
    net = projection(5, (7, 6, 3)).double()
    x = th.randn(9, 5, dtype=th.float64)
    first, second, last = (layer for layer in net if isinstance(layer, nn.Linear))
    assert first.bias is None and second.bias is None and last.bias is not None
    h = x
    for layer in (first, second):
        h = h @ layer.weight.T
        h = F.relu((h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt())
    th.testing.assert_close(net(x), h @ last.weight.T + last.bias)


def test_final_norm_has_no_scale():
    net = projection(5, (7, 4), final_norm=True)
    out = net(th.randn(64, 5) * 10)
    th.testing.assert_close(out.mean(0), th.zeros(4), atol=1e-5, rtol=0)
    th.testing.assert_close(out.std(0, correction=0), th.ones(4), atol=1e-3, rtol=0)
    assert isinstance(net[-2], nn.Linear) and net[-2].bias is None and not list(net[-1].parameters())


def test_batch_statistics_in_every_mode():
    """An EMA copy is in evaluation mode; with the same weights it must see a batch as the original does."""
    net = projection(5, (7, 3))
    x = 5 + 3 * th.randn(9, 5)
    assert not list(net.buffers())
    state = copy.deepcopy(net.state_dict())
    th.testing.assert_close(ema_copy(net)(x), net(x), rtol=0, atol=0)
    assert all(th.equal(value, net.state_dict()[name]) for name, value in state.items()), "nothing runs along"


def test_no_layers_is_the_identity():
    x = th.randn(4, 3)
    assert projection(3, ())(x) is x and not list(projection(3, ()).parameters())
    assert projection(3, (2,))(x).shape == (4, 2)


@pytest.mark.parametrize("widths", ["512", 512, (0,), (4, -1), (2.5,), None])
def test_wrong_widths(widths):
    with pytest.raises(ValueError, match="projector=.*widths of the layers"):
        check_widths("projector", widths)


def test_right_widths():
    assert check_widths("projector", [4, 2]) == (4, 2) and check_widths("projector", ()) == ()
