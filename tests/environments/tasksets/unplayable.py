"""Tasksets that cannot be played without what they need: `kind` says which."""

from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["Unplayable"]


class UnplayableConfig(vf.TasksetConfig):
    kind: str


class Judged(vf.TaskConfig):
    judge: vf.JudgeConfig = vf.JudgeConfig()


class Plain(vf.Task[vf.TaskData]):
    @vf.reward
    async def some(self, trace) -> float:
        return 1.0


class InContainer(Plain):
    NEEDS_CONTAINER = True


class LooksInside(Plain):
    @vf.reward
    async def files(self, trace, runtime) -> float:
        return 1.0


class SetsUp(Plain):
    async def setup(self, trace, runtime) -> None:
        await runtime.run(["true"], {})


class ByJudge(vf.Task[vf.TaskData, vf.State, Judged]):
    @vf.reward
    async def some(self, trace) -> float:
        return 1.0


class Elsewhere(Plain):
    @classmethod
    def toolsets(cls, config) -> list[vf.Toolset]:
        return [Far(vf.ToolsetConfig(url="http://127.0.0.1:9/mcp"))]


class Far(vf.Toolset[vf.ToolsetConfig]):
    pass


class Unrewarded(vf.Task[vf.TaskData]):
    pass


class Rewrites(Plain):
    @vf.intercept
    async def nicer(self, request: vf.Request) -> None:
        return None


class Unplayable(vf.Taskset[vf.Task, UnplayableConfig]):
    def load(self) -> Iterator[vf.Task]:
        kind = self.config.kind
        if kind == "fails":
            raise OSError("its rows are not there")
        if kind == "empty":
            return
        data = vf.TaskData(prompt="What?")
        if kind == "image":
            data = vf.TaskData(prompt="What?", image="python:3.12")
        if kind == "promptless":
            data = vf.TaskData()
        if kind == "few_shot":
            data = vf.TaskData(prompt=[vf.UserMessage(content="1?"), vf.AssistantMessage(content="1")])
        yield {
            "container": InContainer,
            "inside": LooksInside,
            "setup": SetsUp,
            "judge": ByJudge,
            "elsewhere": Elsewhere,
            "unrewarded": Unrewarded,
            "rewrites": Rewrites,
        }.get(kind, Plain)(data)
