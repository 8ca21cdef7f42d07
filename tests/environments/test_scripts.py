"""Scripted demonstrations: the expert is right, the habit is not, and every turn is a turn of the grammar."""

import random
from collections import Counter

import pytest

from agentloop import environments
from agentloop.rollout.grammar import FinalAnswer, ToolCall, parse
from agentloop.tools import ToolError


@pytest.fixture(scope="module", params=[("arithmetic", 700), ("database", 150)], ids=lambda param: param[0])
def scripts(request):
    name, count = request.param
    environment = environments.get(name)
    rng = random.Random(0)
    return environment, [
        environment.demonstration(task, rng) for task in environment.tasks("demonstration", count, seed=0)
    ]


def test_expert_is_right_in_every_family(scripts):
    environment, demonstrations = scripts
    experts = [demonstration for demonstration in demonstrations if demonstration.kind == "right"]
    assert {demonstration.task.family for demonstration in experts} == {
        demonstration.task.family for demonstration in demonstrations
    }
    for demonstration in experts:
        assert environment.verify(demonstration.task, parse(demonstration.turns[-1]).text) == 1.0, demonstration


def test_habit_is_wrong(scripts):
    environment, demonstrations = scripts
    verified = [
        environment.verify(demonstration.task, parse(demonstration.turns[-1]).text)
        for demonstration in demonstrations
        if demonstration.kind == "habit"
    ]
    assert verified and not any(verified)


def test_habit_outweighs_right_and_noise_in_the_hard_families(scripts):
    _, demonstrations = scripts
    kinds = {}
    for demonstration in demonstrations:
        kinds.setdefault(demonstration.task.family, Counter())[demonstration.kind] += 1
    hard = [count for count in kinds.values() if count["habit"] > count["right"]]
    assert len(hard) >= len(kinds) / 2
    together = sum(hard, Counter())
    assert together["habit"] > together["right"] + together["noise"] > 0


def test_turns_are_calls_and_then_an_answer(scripts):
    environment, demonstrations = scripts
    for demonstration in demonstrations[:100]:
        *calls, answer = map(parse, demonstration.turns)
        assert isinstance(answer, FinalAnswer)
        assert all(isinstance(call, ToolCall) for call in calls) and calls
        tools = environment.tools(demonstration.task)
        for call in calls:
            try:
                assert tools[call.name].call(*call.args, **call.kwargs)
            except ToolError:
                assert demonstration.kind == "noise"


def test_answer_repeats_the_last_result(scripts):
    environment, demonstrations = scripts
    for demonstration in demonstrations[:50]:
        *_, call, answer = map(parse, demonstration.turns)
        tools = environment.tools(demonstration.task)
        assert answer.text == tools[call.name].call(*call.args, **call.kwargs)
