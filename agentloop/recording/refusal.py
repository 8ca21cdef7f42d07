"""Why a request is not answered."""

from __future__ import annotations


class Refused(Exception):
    """A request that is not answered. The message is one line for whoever wrote the agent."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        """`status`: of HTTP. `code`, `param`: as in OpenAI's errors."""
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
