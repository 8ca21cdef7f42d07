"""The calculator is exact, and whatever it is given it answers or complains, quickly."""

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentloop.tools import ToolError
from agentloop.tools.calculator import Calculator

calculate = Calculator().call


@dataclass(frozen=True)
class Sum:
    """An expression with its exact value; None where something is divided by zero."""

    text: str
    value: Fraction | None


def _combine(parts):
    left, sign, right = parts
    operator = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}[sign]
    undefined = left.value is None or right.value is None or (sign == "/" and right.value == 0)
    return Sum(f"({left.text}{sign}{right.text})", None if undefined else operator(left.value, right.value))


NUMBERS = st.integers(0, 999).map(lambda number: Sum(str(number), Fraction(number)))
SUMS = st.recursive(NUMBERS, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(_combine), max_leaves=8)


@given(SUMS)
def test_equals_exact_arithmetic(expected):
    if expected.value is None:
        with pytest.raises(ToolError, match="division by zero"):
            calculate(expected.text)
    else:
        value = Fraction(calculate(expected.text))
        assert abs(value - expected.value) <= abs(expected.value) / 10**11
        if expected.value.denominator == 1:
            assert value == expected.value


@pytest.mark.parametrize(
    "expression, value",
    [
        ("12+34", "46"),
        ("2**100", str(2**100)),
        ("1/8", "0.125"),
        ("1/3", "0.333333333333"),
        ("1.1+2.2", "3.3"),
        ("7//2", "3"),
        ("-7%3", "2"),
        ("(2/3)**-3", "3.375"),
        ("0**0", "1"),
        ("0**7", "0"),
        ("(-1)**1000000001", "-1"),
        ("100/4*1.0", "25"),
    ],
)
def test_values(expression, value):
    assert calculate(expression) == value


def test_long_decimals_that_end_are_exact():
    assert Fraction(calculate("-1/2**500")) == Fraction(-1, 2**500)


@pytest.mark.parametrize(
    "expression, complaint",
    [
        ("9**9**9", "too large"),
        ("2**5000", "too large"),
        ("10**300*10**300", "too large"),
        ("2**0.5", "whole number"),
        ("1/0", "division by zero"),
        ("0**-1", "division by zero"),
        ("5%0", "division by zero"),
        ("__import__('os').system('true')", "only numbers"),
        ("True+1", "only numbers"),
        ("5^2", "only numbers"),
        ("1e999", "only numbers"),
        ("[1]*9", "only numbers"),
        ("(1", "not valid"),
        ("", "not valid"),
        ("1" * 201, "longer"),
    ],
)
def test_refuses(expression, complaint):
    with pytest.raises(ToolError, match=complaint):
        calculate(expression)


@pytest.mark.parametrize("args, kwargs", [((), {}), ((1,), {}), (("1", "2"), {}), ((), {"formula": "1"})])
def test_refuses_wrong_arguments(args, kwargs):
    with pytest.raises(ToolError):
        calculate(*args, **kwargs)


@given(st.text(alphabet="0123456789.+-*/%() e_'abc", max_size=60))
def test_any_text_is_answered_or_refused(text):
    try:
        Fraction(calculate(text))
    except ToolError as error:
        assert "\n" not in str(error)
