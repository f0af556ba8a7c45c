"""Achievement distillation's contrasts beside plain forms: every frame encoded for each use, every pair by itself, float64."""

import math

import numpy as np
import pytest
import torch as th
from torch.nn import functional as F

from crl.contract import Spaces
from crl.losses.partial_transport import entropic_partial_transport
from crl.objectives.achievement import AchievementDistillation, draw_negatives, goal_representation
from crl.objectives.goal_matching import match_goals
from crl.objectives.goal_trajectory import GoalTrajectory

from .small import DISCRETE, SPACE, TinyEncoder

WIDTH = 5


def trajectory(length=12, unlocks=(2, 3, 8), seed=0, memory=True):
    generator = th.Generator().manual_seed(seed)
    unlocked = th.zeros(length, dtype=th.bool)
    unlocked[list(unlocks)] = True
    return GoalTrajectory(
        th.randint(0, 256, (length, *SPACE.shape), dtype=th.uint8, generator=generator),
        th.randint(0, 3, (length, 1), generator=generator),
        unlocked,
        th.randn(length, generator=generator),
        F.normalize(th.randn(length, WIDTH, generator=generator, dtype=th.float64), dim=1) if memory else None,
    )


def built(memory=True, **kwargs):
    objective = AchievementDistillation(**{"hidden_dim": 16, **kwargs})  # of 5 units all may be dead
    with th.random.fork_rng(devices=[]):
        th.manual_seed(0)
        objective.build(TinyEncoder(), Spaces(SPACE, DISCRETE), WIDTH if memory else 0)
    objective.to(th.float64)
    objective.actions.forward = lambda actions: F.one_hot(actions[:, 0], 3).double()
    return objective


def plain_goal(objective, t, step):
    """Frame by frame."""
    before, after = (objective.encoder(t.obs[i : i + 1])[0] for i in (step, step + 1))
    return (after - before) / (after - before).norm()


def plain_psi(objective, t, step):
    phi = objective.encoder(t.obs[step : step + 1])
    film = objective.action_head(F.one_hot(t.actions[step], 3).double())
    z = (1 + film[:, :WIDTH]) * phi + film[:, WIDTH:]
    if t.memory is not None:
        z = th.cat([z, t.memory[step : step + 1]], 1)
    out = objective.state_action_head(z)[0]
    return out / out.norm()


def plain_prediction(objective, t, steps, others, detach=True):
    losses = []
    for step, other in zip(steps.tolist(), others.tolist(), strict=True):
        ahead = [u for u in range(len(t) - 1) if t.unlocked[u] and u >= step]
        if ahead:
            anchor = plain_goal(objective, t, ahead[0])
        else:
            last = objective.encoder(t.obs[-1:])[0]
            anchor = -last / last.norm()
        anchor = anchor.detach() if detach else anchor
        e = [th.exp(anchor @ plain_psi(objective, t, i) / objective.temperature) for i in (step, other)]
        losses.append(-th.log(e[0] / (e[0] + e[1])))
    return th.stack(losses).mean()


def gradients(objective, loss):
    trained = [*objective.encoder.parameters(), *objective.parameters()]
    found = th.autograd.grad(loss, trained, allow_unused=True)
    return [th.zeros_like(p) if g is None else g for g, p in zip(found, trained, strict=True)]


def assert_same(objective, got, want):
    th.testing.assert_close(got, want)
    for a, b in zip(gradients(objective, got), gradients(objective, want), strict=True):
        th.testing.assert_close(a, b)


def differ(a, b):
    return not all(th.allclose(x, y, rtol=1e-4) for x, y in zip(a, b, strict=True))


# ---- trajectories


@pytest.mark.parametrize("unlocks", [(0,), (2, 3, 8), (10,), (11,), ()])
def test_next_goals(unlocks):
    t = trajectory(unlocks=unlocks)
    goals = [u for u in unlocks if u < 11]
    assert t.n_goals == len(goals), "the last step's goal has no frame after it"
    want = [next((i for i, u in enumerate(goals) if u >= step), len(goals)) for step in range(12)]
    assert t.next_goals(th.arange(12)).tolist() == want


def test_a_trajectory_has_one_length():
    t = trajectory()
    with pytest.raises(ValueError, match="one length"):
        GoalTrajectory(t.obs, t.actions[:-1], t.unlocked, t.returns)
    with pytest.raises(ValueError, match="at least 1"):
        GoalTrajectory(t.obs[:0], t.actions[:0], t.unlocked[:0], t.returns[:0])


# ---- within an episode


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("unlocks", [(2, 3, 8), (0,), (5, 11)])
def test_prediction_of_a_whole_episode(memory, unlocks):
    objective, t = built(memory), trajectory(unlocks=unlocks, memory=memory)
    rng = np.random.default_rng(0)
    steps, others = th.as_tensor(rng.permutation(12)), th.as_tensor(rng.permutation(12))
    batch = objective.prediction(t, steps, others)
    assert_same(objective, batch.loss, plain_prediction(objective, t, steps, others))
    assert th.equal(batch.steps, th.cat([steps, others]))
    th.testing.assert_close(batch.latents, objective.encoder(t.obs[batch.steps]))


def test_prediction_of_a_part():
    """Episodes longer than a batch: anchors' frames may be outside of it."""
    objective, t = built(), trajectory()
    steps, others = th.tensor([0, 4, 9]), th.tensor([4, 6, 1])
    batch = objective.prediction(t, steps, others)
    assert_same(objective, batch.loss, plain_prediction(objective, t, steps, others))


def test_every_frame_is_encoded_once():
    objective, t = built(), trajectory()
    objective.encoder.passes.clear()
    order = th.randperm(12)
    objective.prediction(t, th.arange(12), order)
    assert objective.encoder.passes == [12], "anchors come from the same pass"
    objective.encoder.passes.clear()
    objective.prediction(t, th.tensor([0, 4, 9]), th.tensor([4, 6, 1]))
    # steps 0 1 4 6 9 with gradient; then the frames of goals 2 and 8 (9 is there), and the last one: no goal comes after 9
    assert objective.encoder.passes == [5, 4]


def test_no_gradient_through_the_anchor():
    """With it, gradients would differ: the test above can tell."""
    objective, t = built(), trajectory()
    steps, others = th.arange(12), th.arange(12).flip(0)
    got = gradients(objective, objective.prediction(t, steps, others).loss)
    assert differ(got, gradients(objective, plain_prediction(objective, t, steps, others, detach=False)))


def test_prediction_can_be_learned():
    objective = built()
    optimizer = th.optim.Adam([*objective.encoder.parameters(), *objective.parameters()], 1e-2)
    trajectories = [trajectory(unlocks=(3, 7), seed=seed) for seed in range(2)]
    for _ in range(100):
        batches = [objective.prediction(t, th.arange(12), (th.arange(12) + 4) % 12) for t in trajectories]
        loss = sum(batch.loss for batch in batches)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert batches[0].metrics["prediction_accuracy"] > 0.8 and loss.item() < math.log(2), "half of a coin toss's"


# ---- between episodes


def test_matching_of_each_target_by_itself():
    objective = built()
    source, targets = (
        trajectory(seed=1),
        [trajectory(seed=s, unlocks=u) for s, u in ((2, (1, 5, 6, 9)), (3, (4,)), (4, (0, 2)))],
    )
    sizes = [t.n_goals for t in targets]
    goals = objective.goals(source)
    th.testing.assert_close(goals, th.stack([plain_goal(objective, source, u) for u in (2, 3, 8)]))
    of_targets = objective.goals_of(targets)
    pairs = objective.find_pairs(goals, of_targets, sizes)
    want = []
    for owner, t in enumerate(targets):
        others = th.stack([plain_goal(objective, t, int(u)) for u in t.goal_steps])
        plan = entropic_partial_transport(1 - goals.detach() @ others.T)
        want += [(i, sum(sizes[:owner]) + j, owner) for i, j in (plan > 0.5).nonzero().tolist()]
    assert [tuple(row) for row in th.stack([pairs.source, pairs.target, pairs.owner], 1).tolist()] == want and want


def test_the_same_goals_find_each_other():
    source = F.normalize(th.randn(4, 8, generator=th.Generator().manual_seed(0)), dim=1)
    order = [2, 0, 3, 1]
    pairs = match_goals(source, th.cat([source[order], source[:2]]), [4, 2])
    assert pairs.source[:4].tolist() == [0, 1, 2, 3] and pairs.target[:4].tolist() == [1, 3, 0, 2]
    assert pairs.owner.tolist() == [0] * 4 + [1] * 2 and pairs.target[4:].tolist() == [4, 5]


def test_matching_loss_and_where_its_gradient_goes():
    objective = built()
    source, targets = trajectory(seed=1), [trajectory(seed=2), trajectory(seed=3)]
    goals, of_targets = objective.goals(source), objective.goals_of(targets)
    pairs = objective.find_pairs(goals, of_targets, [3, 3])
    negatives = draw_negatives(pairs, [3, 3], np.random.default_rng(0))
    of_targets.retain_grad()
    loss, _ = objective.matching(goals, of_targets, pairs, negatives)
    losses = []
    for i, j, k in zip(pairs.source.tolist(), pairs.target.tolist(), negatives.tolist(), strict=True):
        anchor = plain_goal(objective, source, int(source.goal_steps[i]))
        e = [th.exp(anchor @ of_targets[x].detach() / 0.1) for x in (j, k)]
        losses.append(-th.log(e[0] / (e[0] + e[1])))
    assert_same(objective, loss, th.stack(losses).mean())
    objective.matching(objective.goals(source), of_targets, pairs, negatives)[0].backward()
    assert of_targets.grad is None, "targets get no gradient"
    assert all(p.grad is None for p in objective.parameters()), "nor do the heads"
    assert any(p.grad.abs().sum() > 0 for p in objective.encoder.parameters())


def test_negatives_are_of_the_matchs_own_episode():
    source = F.normalize(th.randn(6, 8, generator=th.Generator().manual_seed(0)), dim=1)
    pairs = match_goals(source, th.cat([source, source[:1], source[:3]]), [6, 1, 3])
    seen = np.array([draw_negatives(pairs, [6, 1, 3], np.random.default_rng(s)).tolist() for s in range(200)])
    bounds = {0: range(6), 1: range(6, 7), 2: range(7, 10)}
    for column, owner in enumerate(pairs.owner.tolist()):
        assert set(seen[:, column]) == set(bounds[owner])


# ---- wrong values


@pytest.mark.parametrize(
    "arguments", [dict(temperature=0.0), dict(regularisation=0.0), dict(threshold=1.5), dict(hidden_dim=0)]
)
def test_values_out_of_range(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        AchievementDistillation(**arguments)


def test_memory_must_be_as_built():
    with pytest.raises(ValueError, match="memory of width 5"):
        built(memory=True).prediction(trajectory(memory=False), th.arange(12), th.arange(12))
    with pytest.raises(ValueError, match="memory of width 0"):
        built(memory=False).prediction(trajectory(memory=True), th.arange(12), th.arange(12))


def test_not_built():
    with pytest.raises(RuntimeError, match="not built yet"):
        AchievementDistillation().goals(trajectory())


def test_sizes_of_targets_must_add_up():
    with pytest.raises(ValueError, match="sizes must add up"):
        match_goals(th.ones(2, 3), th.ones(3, 3), [2, 2])


def test_an_unchanged_frame_is_no_direction():
    x = th.ones(1, 4, requires_grad=True)
    goal = goal_representation(x, x * 1.0)
    goal.sum().backward()
    assert th.equal(goal, th.zeros(1, 4)) and x.grad.isfinite().all()


def test_heads_begin_as_the_encoder_does():
    objective = built(hidden_dim=None)
    for head in (objective.action_head, objective.state_action_head):
        norm, hidden, _, last = head
        assert hidden.bias is None and not last.bias.any()
        th.testing.assert_close(hidden.weight.norm(dim=1), th.full((WIDTH,), 1.4, dtype=th.float64))
        th.testing.assert_close(last.weight.norm(dim=1), th.ones(len(last.weight), dtype=th.float64))
    assert objective.action_head[-1].out_features == 2 * WIDTH and objective.state_action_head[1].in_features == 2 * WIDTH
