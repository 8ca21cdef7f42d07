"""A taskset without tools: sums, with a reward for the right number and one for writing nothing else."""

from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["Sums"]


class SumsConfig(vf.TasksetConfig):
    count: int = 100
    asked: str = "How much is"


class SumData(vf.TaskData):
    answer: str


class Sum(vf.Task[SumData]):
    async def setup(self, trace, runtime) -> None:
        trace.info["set up"] = True

    @vf.reward(weight=0.8)
    async def right(self, trace) -> float:
        assert trace.info["set up"]
        return float(self.data.answer in trace.last_reply.split())

    @vf.reward(weight=0.2)
    async def short(self, trace) -> float:
        return float(len(trace.last_reply) <= len(self.data.answer))

    @vf.metric
    async def turns(self, trace) -> float:
        return float(trace.num_turns)


class Sums(vf.Taskset[Sum, SumsConfig]):
    def load(self) -> Iterator[Sum]:
        for number in range(self.config.count):
            yield Sum(
                SumData(
                    prompt=f"{self.config.asked} {number} + {7 * number}?",
                    system_prompt="You add. Say the number alone.",
                    answer=str(8 * number),
                ),
                self.config.task,
            )
