"""A turn is one call, an answer, or a mistake; nothing in between and nothing else raised."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentloop.rollout.grammar import FinalAnswer, GrammarError, ToolCall, parse

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def fenced(call):
    return f"```tool_code\n{call}\n```"


@given(
    st.lists(VALUES, max_size=3), st.dictionaries(st.sampled_from(["sql", "limit", "expression"]), VALUES, max_size=3)
)
def test_reads_back_any_literal_arguments(args, kwargs):
    written = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
    if "```" not in written:
        assert parse(fenced(f"tool({written})")) == ToolCall("tool", tuple(args), kwargs)


@pytest.mark.parametrize(
    "text, expected",
    [
        (fenced('calculate("1+2")'), ToolCall("calculate", ("1+2",))),
        ("First the sum.\n" + fenced('calculate("1+2")') + "\n", ToolCall("calculate", ("1+2",))),
        (fenced('query("""SELECT 1\nFROM t""")'), ToolCall("query", ("SELECT 1\nFROM t",))),
        (fenced("f((1, 2), x=-1.5)"), ToolCall("f", ([1, 2],), {"x": -1.5})),
        ("Answer: 46", FinalAnswer("46")),
        ("So it is 46.\nAnswer: 46 apples \n", FinalAnswer("46 apples")),
    ],
)
def test_accepts(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "46",
        "Answer:",
        "Answer: ",
        "Answer:46",
        "Answer: 46\nI am sure.",
        "The Answer: 46",
        fenced("f(1)") + "\nAnswer: 2",
        fenced("f(1)") + "\n" + fenced("f(1)"),
        "```\nx\n```\n" + fenced("f(1)"),
        "```tool_output\n3\n```\nAnswer: 3",
        "```tool_code\nf(1)",
        "```tool_code\nf(1)```",
        "```tool_code\nf(1)\n```.",
        fenced(""),
        fenced("f"),
        fenced("f(x)"),
        fenced("f(1+1)"),
        fenced("f(*[1])"),
        fenced("f(**{'a': 1})"),
        fenced("f(a=1, a=2)"),
        fenced("a.f(1)"),
        fenced("f(1)(2)"),
        fenced("f(1); g(2)"),
        fenced("x = f(1)"),
        fenced("f({1, 2})"),
        fenced("f(b'1')"),
        fenced("f(1e999)"),
        fenced("f({1: 2})"),
        fenced("f('\0')"),
        fenced("f(" + "-" * 3000 + "1)"),
        fenced("f(" + "[" * 1000 + "]" * 1000 + ")"),
        fenced(f"f('{'x' * 5000}')"),
        fenced("f(f'{1}')"),
    ],
)
def test_refuses(text):
    with pytest.raises(GrammarError) as raised:
        parse(text)
    assert str(raised.value) and "\n" not in str(raised.value)


@given(st.text(alphabet=st.sampled_from("`\n()\"'=,.-*[]{}: Answerf1tool_code"), max_size=80) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    for candidate in (text, fenced(text), fenced(f"f({text})")):
        try:
            assert isinstance(parse(candidate), (ToolCall, FinalAnswer))
        except GrammarError:
            pass


@pytest.mark.parametrize(
    "written, read",
    [
        (r'"\ud83d\ude00"', ("\N{GRINNING FACE}", 0)),
        (r'"a\ud83d"', ("a\N{REPLACEMENT CHARACTER}", 1)),
        (r'"\ude00\ud83d"', ("\N{REPLACEMENT CHARACTER}" * 2, 2)),
        (r'{"k\ud83d": ["\udc00"]}', ({"k\N{REPLACEMENT CHARACTER}": ["\N{REPLACEMENT CHARACTER}"]}, 2)),
        ('"\N{REPLACEMENT CHARACTER}"', ("\N{REPLACEMENT CHARACTER}", 0)),
        (r'"\d\x00"', ("\\d\x00", 0)),
    ],
)
def test_text_that_cannot_be_encoded_is_replaced_and_counted(written, read):
    call = parse(fenced(f"f({written})"))
    assert (call.args[0], call.replaced) == read
    json.dumps(call.args[0], ensure_ascii=False).encode()


@pytest.mark.parametrize("number", ["0x" + "f" * 3700, "9" * 3000, "-0x" + "f" * 1025, "1" + "0" * 3900])
def test_numbers_without_end_are_refused(number):
    with pytest.raises(GrammarError):
        parse(fenced(f"f({number})"))
    assert parse(fenced(f"f({2**4000})")).args == (2**4000,)


@pytest.mark.filterwarnings("error")
def test_warnings_made_errors_do_not_change_what_is_read():
    assert parse(fenced(r'f("\d")')) == ToolCall("f", ("\\d",))
