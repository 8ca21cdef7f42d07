"""A calculator with exact arithmetic on the expression's syntax tree; nothing is evaluated as code."""

from __future__ import annotations

import ast
import inspect
import operator
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from agentloop.literals import read_expression
from agentloop.tools.arguments import Arguments
from agentloop.tools.tool import ToolError

MAX_CHARACTERS = 200
"""Length of the longest expression."""
MAX_BITS = 1024
"""Size of the largest numerator or denominator, which bounds the time and memory of every operation."""
SIGNIFICANT_DIGITS = 12
"""Digits that are shown of a result whose decimals do not end."""

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Calculator:
    """The tool `calculate`: value of an arithmetic expression with + - * / // % ** and parentheses."""

    name = "calculate"
    description = "Value of an arithmetic expression with + - * / // % ** and parentheses."
    signature = inspect.Signature(
        [inspect.Parameter("expression", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str)],
        return_annotation=str,
    )
    _arguments = Arguments(signature)

    def call(self, /, *args: Any, **kwargs: Any) -> str:
        """Return the value as a decimal: exact where its digits end, else to `SIGNIFICANT_DIGITS`.

        Raises ToolError for anything that is no such expression, division by zero, and numbers beyond `MAX_BITS`.
        """
        expression = self._arguments.bind(args, kwargs).arguments["expression"]
        if len(expression) > MAX_CHARACTERS:
            raise ToolError(f"the expression is longer than {MAX_CHARACTERS} characters")
        try:
            tree = read_expression(expression.strip())
        except ValueError:
            raise ToolError("the expression is not valid") from None
        return _decimal(_value(tree))


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int(number)):
            return _bounded(Fraction(number))
        case ast.Constant(value=float(number)) if abs(number) < float("inf"):
            return _bounded(Fraction(str(number)))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            try:
                return _bounded(Fraction(_OPERATORS[type(op)](_value(left), _value(right))))
            except ZeroDivisionError:
                raise ToolError("division by zero") from None
    raise ToolError("only numbers, + - * / // % ** and parentheses are allowed")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ToolError("the exponent must be a whole number")
    if base == 0 and exponent < 0:
        raise ToolError("division by zero")
    if base not in (-1, 0, 1) and abs(exponent) * _bits(base) > MAX_BITS:
        raise ToolError("the number is too large")
    # The parity of an exponent of any size decides the powers of -1, 0 and 1.
    power = exponent.numerator if base not in (-1, 0, 1) else exponent.numerator % 2 + (2 if exponent != 0 else 0)
    return base**power


def _bits(number: Fraction) -> int:
    return max(abs(number.numerator).bit_length(), number.denominator.bit_length())


def _bounded(number: Fraction) -> Fraction:
    if _bits(number) > MAX_BITS:
        raise ToolError("the number is too large")
    return number


def _decimal(number: Fraction) -> str:
    if number.denominator == 1:
        return str(number.numerator)
    rest = number.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    with localcontext() as context:
        # 2**-n has n decimals: twice MAX_BITS digits hold any quotient of bounded numbers whose decimals end.
        context.prec = 2 * MAX_BITS if rest == 1 else SIGNIFICANT_DIGITS
        quotient = Decimal(number.numerator) / Decimal(number.denominator)
        return f"{quotient.normalize():f}"
