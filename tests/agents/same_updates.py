"""Whether two implementations of an update have moved parameters alike."""


def assert_moved_alike(mine, theirs, start):
    """
    Together the movements agree to 3 in 1000, and single entries closely, but for one in 1000: where a gradient vanishes its
    sign is rounding, and Adam makes a whole step of it.

    :param mine: parameters by name
    :param theirs: the same names
    :param start: what both began with
    """
    assert mine.keys() == theirs.keys()
    for name, parameter in mine.items():
        apart = parameter - theirs[name]
        far = apart.abs() > 5e-5 + 1e-4 * theirs[name].abs()
        assert far.sum() <= far.numel() / 1000, f"{name}: {int(far.sum())} of {far.numel()}, up to {apart.abs().max():.1e}"
        moved = (theirs[name] - start[name]).norm()
        assert moved > 0 and apart.norm() <= 3e-3 * moved, f"{name}: {apart.norm() / moved:.1e} of the movement"
