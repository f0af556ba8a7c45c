"""Returns as text."""

import pytest

from crl.runs.return_text import return_text


@pytest.mark.parametrize("value, text", [
    (824.84, "824.8"), (-20.7, "-20.7"), (8.4, "8.40"), (-1.006, "-1.01"), (0.13822, "0.138"), (-0.05576, "-0.056"),
    (0, "0.0"), (-1e-5, "0.000"), (12345.678, "12345.7"),
])  # fmt: skip
def test_three_digits_and_at_least_one_decimal(value, text):
    assert return_text(value) == text
