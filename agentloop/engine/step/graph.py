"""CUDA graphs of whole steps: a step is some 4,000 kernels, and launching them from Python takes longer than running them.

A graph belongs to one padded size (batch/shapes.py). The first step of all runs as it is, for kernels compile and load; after
that a size that is known to recur is captured at once, any other when it comes for the second time. From then on the graph is
replayed with the new batch copied into its inputs. Steps of either kind run on one stream and take their memory from one pool:
what a step frees, the next finds there, captured or not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agentloop.engine.memory.plans import StepPlan
from agentloop.engine.step.context import StepInputs
from agentloop.engine.step.results import TokenResults
from agentloop.engine.step.rule import Rule

LIMIT = 24
"""Graphs kept; the one unused for longest goes first."""


@dataclass(frozen=True)
class CapturedStep:
    graph: torch.cuda.CUDAGraph
    inputs: StepInputs
    scale: Tensor
    results: TokenResults


Step = Callable[[StepInputs, Tensor, StepPlan, bool, Rule | None], TokenResults]


class StepGraphs:
    """`step(inputs, scale, plan, observe, rule)` must wait for nothing and reach the same memory whenever it is called."""

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step, self._device = step, device
        self._seen: set[tuple] = set()
        self._captured: OrderedDict[tuple, CapturedStep] = OrderedDict()
        self._pool = torch.cuda.MemPool()
        self._stream = torch.cuda.Stream(device)  # the allocator gives a freed block to its own stream alone

    def run(
        self,
        inputs: StepInputs,
        scale: Tensor,
        plan: StepPlan,
        observe: bool,
        rule: Rule | None,
        *,
        recurs: bool = False,
    ) -> TokenResults:
        """The step's results. `inputs` on the host, padded; `recurs`: their size is known to. Raises torch.OutOfMemoryError."""
        how = (plan, observe, rule)
        key = (inputs.shape, *how)
        loaded = (inputs.skip, *how) in {(shape.skip, *rest) for shape, *rest in self._seen}
        if key not in self._seen and not (recurs and loaded):
            self._seen.add(key)
            return self._launch(inputs, scale, *how)
        if key not in self._captured:
            self._captured[key] = self._capture(inputs, scale, *how)
            if len(self._captured) > LIMIT:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        step = self._captured[key]
        step.inputs.copy_(inputs)
        step.scale.copy_(scale)
        step.graph.replay()
        return step.results.clone()

    def _launch(
        self, inputs: StepInputs, scale: Tensor, plan: StepPlan, observe: bool, rule: Rule | None
    ) -> TokenResults:
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream), torch.cuda.use_mem_pool(self._pool, self._device):
            results = self._step(inputs.to(self._device), scale, plan, observe, rule)
        caller.wait_stream(self._stream)
        return results.clone()  # out of the pool, which the next step writes over

    def _capture(
        self, inputs: StepInputs, scale: Tensor, plan: StepPlan, observe: bool, rule: Rule | None
    ) -> CapturedStep:
        static, static_scale = inputs.to(self._device), scale.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool.id, stream=self._stream):
                results = self._step(static, static_scale, plan, observe, rule)
        except Exception as error:
            # To end a capture that has failed fails as well, and says nothing of why.
            raise error.__context__ or error from None
        return CapturedStep(graph, static, static_scale, results)

    def release(self) -> None:
        """Forget every graph, and give the pool's memory back that nothing else uses."""
        self._seen.clear()
        self._captured.clear()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
