"""A judge: a model that is asked what an episode is worth, inside an environment's `score` or `verify`.

Each question is asked once. Question and reply are kept on disk, by their content, so that scoring again asks nothing again and
gives the same. The key is read from an environment variable, sent to the endpoint and kept nowhere.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agentloop import backoff
from agentloop.at_hand import AtHand
from agentloop.errors import JudgeError
from agentloop.files import atomic
from agentloop.loopback import is_local
from agentloop.naming import content_id
from agentloop.text import encodable, one_line_of

_ATTEMPTS = 4
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_GRADES = 3
"""Replies that are asked for until one ends with a grade."""
_ASK_FOR_A_GRADE = "\n\nEnd your reply with one line: Grade: N, where N is a number from 0 to 1."
_GRADE = re.compile(r"[\s*_]*Grade:[\s*_]*(0(?:\.\d+)?|1(?:\.0+)?|\.\d+)[\s*_.]*", re.IGNORECASE)


class NotAsked(JudgeError):
    """Raised where no model is asked: a judge is asked only while episodes are scored, and its replies are kept."""


@dataclass
class Replies:
    """The folder that a judge's replies are kept in."""

    folder: Path
    anew: bool = False
    """True: what was asked before this object was made is asked again."""
    _asked: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, name: str) -> str | None:
        """Return the reply to the question of that name, or None where it is to be asked."""
        with self._lock:
            if self.anew and name not in self._asked:
                return None
        try:
            kept = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
            return str(kept["reply"])
        except (OSError, ValueError, KeyError, TypeError):  # none, or none that was written by us
            return None

    def keep(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a question with its reply. Raises DiskError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(self.folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        with self._lock:
            self._asked.add(name)


_REPLIES: AtHand[Replies] = AtHand()


@contextmanager
def kept_in(folder: Path, *, anew: bool = False) -> Iterator[None]:
    """Let judges ask for the block, and keep their replies in `folder`. `anew`: ask again what was asked before."""
    with _REPLIES.holding(None, Replies(folder, anew)):
        yield


class Judge:
    """A model behind an OpenAI-compatible endpoint (/v1/chat/completions), for `score` or `verify`.

    Made once, as an attribute of an environment, and asked where episodes are scored; elsewhere it raises NotAsked.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = "",
        seconds: float = 120.0,
        keep: Path | None = None,
        **request: Any,
    ) -> None:
        """`url`: up to `/v1`, or the whole address. `key_variable`: name of the environment variable with the key, if one is
        needed. `seconds`: that a reply may take. `keep`: folder for the replies, instead of `judgements` in the data root.
        `request`: more of the request, as `max_tokens=512`; by default `temperature` is 0. One that is None is left out.

        Raises JudgeError where `url` is no address, or holds a key.
        """
        self.url = _address(url)
        self.model = model
        self._key_variable, self._seconds = key_variable, seconds
        self._own = None if keep is None else Replies(Path(keep))
        self._request = {name: value for name, value in ({"temperature": 0.0} | request).items() if value is not None}

    def ask(self, prompt: str, **request: Any) -> str:
        """Return the model's reply to a prompt; the stored one where the same was asked before.

        `request`: changes to the request for this question alone. Raises JudgeError, in one line, where no reply is got, and
        NotAsked outside of scoring.
        """
        replies = self._own or _REPLIES.get(None)
        if replies is None:
            raise NotAsked(
                f"{self.model}: a judge is asked only where episodes are scored, or with a folder to keep= replies in"
            )
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": encodable(prompt)}],
            **self._request,
            **request,
        }
        name = content_id("judgement", body)
        found = replies.find(name)
        if found is not None:
            return found
        started = time.time()
        answer = self._asked(body)
        reply = self._reply(answer)
        record = {"url": self.url, "request": body, "reply": reply, "usage": answer.get("usage")}
        replies.keep(name, record | {"asked": round(started), "seconds": round(time.time() - started, 2)})
        return reply

    def grade(self, prompt: str) -> float:
        """Return a grade from 0 to 1: the prompt asks for it, and the last line of the reply has it.

        A reply without one is asked for again, three times in all. Raises JudgeError where none has a grade, and as `ask`.
        """
        for attempt in range(_GRADES):
            another = {"temperature": 1.0, "seed": attempt} if attempt else {}
            reply = self.ask(f"{prompt}{_ASK_FOR_A_GRADE}", **another)
            found = _GRADE.fullmatch(reply.strip().rpartition("\n")[2])
            if found:
                return float(found[1])
        raise JudgeError(f"{self.url}: {self.model} gives no grade: {one_line_of(reply, most=200)!r}")

    def _asked(self, body: dict[str, Any]) -> dict[str, Any]:
        import httpx  # of the extra `loop`

        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        failure = ""
        with httpx.Client(headers=headers, timeout=self._seconds, trust_env=not is_local(self.url)) as client:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    time.sleep(backoff.pause(attempt - 1, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE))
                try:
                    response = client.post(self.url, json=body)
                except httpx.TimeoutException:
                    failure = f"no reply within {self._seconds:g} s"
                    continue
                except httpx.HTTPError as error:
                    failure = self._shown(error, key) or type(error).__name__
                    continue
                if response.status_code == 200:
                    return self._parsed(response.content, key)
                failure = f"{response.status_code} {self._shown(response.text, key)}"
                if response.status_code < 500 and response.status_code != 429:
                    raise JudgeError(f"{self.url}: {failure}{self._about_the_key(response.status_code)}")
        raise JudgeError(f"{self.url}: {failure} ({_ATTEMPTS} tries)")

    def _parsed(self, content: bytes, key: str) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            said = self._shown(content.decode(errors="replace"), key)
            raise JudgeError(f"{self.url}: the answer is not a JSON object: {said}")
        return answer

    def _reply(self, answer: dict[str, Any]) -> str:
        try:
            reply = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            reply = None
        if not isinstance(reply, str):
            raise JudgeError(
                f"{self.url}: the answer is no chat completion with a text: {one_line_of(answer, most=200)}"
            )
        return encodable(reply)

    def _key(self) -> str:
        if not self._key_variable:
            return ""
        key = os.environ.get(self._key_variable, "")
        if not key:
            raise JudgeError(f"{self.url}: the environment variable {self._key_variable} with the key is not set")
        return key

    def _about_the_key(self, status: int) -> str:
        if status not in (401, 403):
            return ""
        if not self._key_variable:
            return " (no key was sent: key_variable names none)"
        return f" (the key is that of the environment variable {self._key_variable})"

    @staticmethod
    def _shown(said: object, key: str) -> str:
        """On one line, and without the key, which some endpoints repeat."""
        text = one_line_of(said, most=100_000)
        return one_line_of(text.replace(key, "…") if key else text, most=300)


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError as error:
        raise JudgeError(f"judge: {url[:200]!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise JudgeError(f"judge: {url[:200]!r} is no URL")
    if parts.username or parts.password or parts.query:
        raise JudgeError("judge: the URL must not hold a key; key_variable names the environment variable that has it")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return f"{parts.scheme}://{parts.netloc}{path}"
