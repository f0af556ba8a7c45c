"""Returns as text: of tasks whose episodes are worth hundreds, and of those where they are worth a fraction of 1."""

from __future__ import annotations


def return_digits(value: float) -> int:
    """
    :param value: a return, or a mean, spread or difference of such
    :return: decimals that show three digits of it, and at least one
    """
    size = abs(value)
    return 3 if 0 < size < 1 else 2 if 1 <= size < 10 else 1


def return_text(value: float, digits: int | None = None) -> str:
    """
    :param value: a return, or a mean, spread or difference of such
    :param digits: decimals; None: by :func:`return_digits`
    :return: ``824.8``, ``8.40``, ``-0.138``, ``0.0``
    """
    digits = return_digits(value) if digits is None else digits
    # no minus before a zero
    return f"{round(value, digits) + 0.0:.{digits}f}"
