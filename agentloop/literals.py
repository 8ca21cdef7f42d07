"""Python expressions that a model wrote, as a syntax tree: read, never evaluated."""

from __future__ import annotations

import ast
import warnings


def read_expression(source: str) -> ast.expr:
    """The tree of one expression. Raises ValueError for anything else, however it confuses Python's parser.

    Python warns of strange literals (`"\\d"`, `1if x`). The user did not write them, and a warning that is made an error
    must not decide what a model may say.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not an expression: {type(error).__name__}") from None
