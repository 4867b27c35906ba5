"""Scores are written alike wherever a person reads them."""

from __future__ import annotations

import pytest

from hornbook.evals.shown import chance, error, interval, name, number


@pytest.mark.parametrize(
    ("value", "percent", "signed", "text"),
    [
        (0.45678, True, False, "45.68"), (1.0, True, False, "100.00"), (-0.0312, True, True, "−3.12"),
        (0.0312, True, True, "+3.12"), (0.0, True, True, "0.00"), (None, True, False, "–"), (0.632, False, False, "0.6320"),
        (36.7, False, False, "36.70"), (1234.5678, False, False, "1235"), (123456.7, False, False, "123,457"),
        (1.25e-6, False, False, "1.250e−06"), (2e15, False, False, "2.000e+15"), (0.0, False, False, "0.000"),
        (float("inf"), False, False, "inf"),
    ],
)  # fmt: skip
def test_shares_have_two_places_and_other_numbers_four_digits(
    value: float | None, percent: bool, signed: bool, text: str
) -> None:
    assert number(value, percent, signed=signed) == text


def test_what_is_not_known_is_not_made_up() -> None:
    assert error(None, True) == "" and error(0.0123, True) == "± 1.23"
    assert interval(None, 0.5, True) == "–" and interval(-0.01, 0.02, True, signed=True) == "−1.00 … +2.00"
    assert chance(0.0004) == "< 0.001" and chance(0.0314) == "0.031"
    assert name("loss", False) == "loss ↓" and name("acc", True) == "acc"
