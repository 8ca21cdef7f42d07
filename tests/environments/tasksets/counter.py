"""A taskset with a tool that keeps a state: press a button as often as asked, which a stop ends."""

import os
import signal
import time
from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["Counter"]


class Pressed(vf.State):
    times: int = 0


class Button(vf.Toolset[vf.ToolsetConfig, Pressed]):
    async def setup_task(self, task) -> None:
        self.colour = task.colour

    @vf.tool
    async def press(self, times: int = 1) -> str:
        """Press the button so many times."""
        if times < 1:
            raise ValueError("times must be at least 1")
        if times == 666:
            os.kill(os.getpid(), signal.SIGKILL)
        if times == 667:
            time.sleep(3600)
        self.state.times += times
        return f"the {self.colour} button was pressed {self.state.times} times"


class PressData(vf.TaskData):
    times: int
    colour: str


class Press(vf.Task[PressData, Pressed]):
    @classmethod
    def toolsets(cls, config) -> list[vf.Toolset]:
        return [Button(vf.ToolsetConfig())]

    @vf.stop
    async def broken(self, trace: vf.Trace) -> bool:
        return trace.state.times > 50

    @vf.reward
    async def as_often_as_asked(self, trace) -> float:
        calls = [call for message in trace.assistant_messages for call in message.tool_calls or []]
        assert all(call.name == "button_press" for call in calls)
        return float(trace.state.times == self.data.times)


class Counter(vf.Taskset[Press]):
    INFINITE = True

    def load(self) -> Iterator[Press]:
        number = 0
        while True:
            number += 1
            colour = ("red", "green", "blue")[number % 3]
            prompt = f"Press the {colour} button {number} times, please, and no more often than that."
            yield Press(PressData(prompt=prompt, times=number, colour=colour))
