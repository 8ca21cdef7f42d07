"""The tool of the agents here: they call it themselves, agentloop never does."""

import ast
import operator

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculate(expression: str) -> str:
    """Value of an arithmetic expression with + - * / and parentheses.

    Args:
        expression: The expression, for example "2 * (3 + 4)".
    """
    try:
        value = _value(ast.parse(expression, mode="eval").body)
    except (KeyError, SyntaxError, TypeError, ZeroDivisionError) as error:
        return f"error: {type(error).__name__}"
    return str(int(value) if value == int(value) else value)


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    return -_value(node.operand) if isinstance(node, ast.UnaryOp) else float(ast.literal_eval(node))
