"""The cause of a failure, out of the log around it."""

import pytest

from agentloop.child_log import complaint, last_line, reason

CHAIN = """
(Worker pid=7) ERROR 11-21 10:00:00 [multiproc_executor.py:1] Traceback (most recent call last):
(Worker pid=7) ERROR 11-21 10:00:00 [multiproc_executor.py:1]   File "x.py", line 3, in load
(Worker pid=7) ERROR 11-21 10:00:00 [multiproc_executor.py:1] ValueError: There is no module or parameter named 'foo'
(EngineCore pid=6) ERROR 11-21 10:00:01 [core.py:9] Exception: WorkerProc initialization failed due to an exception in a background process.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
PYDANTIC = """
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, max_model_len (99999) is greater than the derived max_model_len
    For further information visit https://errors.pydantic.dev
"""

NO_HEADERS = """
torch._inductor.exc.InductorError: CppCompileError: C++ compile error

Command:
g++ /tmp/error.cpp -shared

Output:
In file included from /tmp/header.hpp:1:
/tmp/torch/python_headers.h:12:10: fatal error: Python.h: No such file or directory
   12 | #include <Python.h>
vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.
"""


@pytest.mark.parametrize(
    "text, cause",
    [
        (
            NO_HEADERS,
            "CppCompileError: C++ compile error: "
            "/tmp/torch/python_headers.h:12:10: fatal error: Python.h: No such file or directory",
        ),
        (CHAIN, "There is no module or parameter named 'foo'"),
        (PYDANTIC, "Value error, max_model_len (99999) is greater than the derived max_model_len"),
        ("usage: x\napi_server.py: error: unrecognized arguments: --nonsense\n", "unrecognized arguments: --nonsense"),
        ("(APIServer pid=1) INFO 11-21 10:00:00 [x.py:1] loading\n\n", "loading"),
        ("", "the log is empty"),
    ],
)
def test_reason(text, cause):
    assert reason(text) == cause


@pytest.mark.parametrize(
    "message",
    [
        "Call to add_lora method failed: Worker failed with error 'adapter a: dropped: m', please check the stack trace above for the root cause",
        "Call to add_lora method failed: adapter a: dropped: m",
        "adapter a:\n  dropped: m",
    ],
)
def test_complaint(message):
    assert complaint(message) == "adapter a: dropped: m"


def test_last_line():
    assert last_line("one\n(Worker pid=7) INFO 11-21 10:00:00 [a.py:1] two\n \n") == "two"
