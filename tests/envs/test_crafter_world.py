"""The fast generator makes crafter's own worlds."""

import numpy as np
import opensimplex
import pytest
from crafter import constants, engine, objects, worldgen

from crl.envs.crafter_world import TOLERANCE, _Noise, generate_world


def make(generate, seed, area=(64, 64)):
    world = engine.World(area, constants.materials, (12, 12))
    world.reset(seed=seed)
    player = objects.Player(world, (area[0] // 2, area[1] // 2))
    world.add(player)
    generate(world, player)
    return world


@pytest.mark.parametrize(("seed", "area"), [(0, (64, 64)), (1, (40, 56)), (2, (64, 64))])
def test_equal_to_crafters(seed, area):
    theirs, mine = make(worldgen.generate_world, seed, area), make(generate_world, seed, area)
    assert (theirs._mat_map == mine._mat_map).all()
    described = [[(type(obj).__name__, *obj.pos.tolist()) for obj in world.objects] for world in (theirs, mine)]
    assert described[0] == described[1] and len(described[0]) > 5
    assert theirs.random.uniform() == mine.random.uniform(), "as many random numbers were drawn"


def test_error_of_the_noise():
    simplex = opensimplex.OpenSimplex(seed=5)
    places = np.random.default_rng(0).uniform(0, 40, (2, 3000))
    mine = _Noise(simplex)(*places, 3.0)
    theirs = np.array([simplex.noise3(x, y, 3) for x, y in places.T])
    assert np.abs(mine - theirs).max() < TOLERANCE / 8 and theirs.std() > 0.1
