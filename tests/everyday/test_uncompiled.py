"""A machine on which vLLM cannot compile: it runs all the same, or says at once what its log knows."""

import asyncio
import re

import pytest
import torch

from agentloop import settings as configuration
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.prepare import policies
from agentloop.errors import ServerError, StartError
from agentloop.project import CHECKOUT
from agentloop.serving.policy_server import PolicyServer
from agentloop.serving.served_policy import ServedPolicy

PROMPT = [5, 6, 7, 8]


@pytest.fixture
def campaign(tmp_path):
    torch.set_num_threads(1)
    roots = {"data": str(tmp_path / "data"), "cache": str(tmp_path / "cache")}
    settings = configuration.load({"model": str(CHECKOUT / "models" / "tiny"), "paths": roots}, profile="demo")
    return Campaign.open(settings)


async def ask(server: PolicyServer, tries: int = 1):
    async with ServedPolicy(server, None, temperature=1.0) as policy:
        for _ in range(tries):
            try:
                return await policy(PROMPT, max_tokens=8, seed=0, session="only")
            except ServerError:
                assert await policy.lost()
                await policy.ready()


def test_without_a_compiler_vllm_runs_uncompiled_and_says_so(campaign, monkeypatch, capfd):
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    with policies(campaign) as server:
        assert asyncio.run(ask(server)).token_ids
    said = [line for line in capfd.readouterr().out.splitlines() if "compile" in line]
    assert len(said) == 1
    remedy = (
        r"vLLM runs uncompiled, which is slower: no C\+\+ compiler \(/nonexistent/g\+\+: .*\); apt install g\+\+ python"
    )
    assert re.match(remedy, said[0])


@pytest.mark.slow
def test_a_compiler_that_fails_only_later_is_named_after_one_more_try(campaign, monkeypatch, tmp_path):
    broken = tmp_path / "g++"
    broken.write_text(
        '#!/bin/sh\ncase "$*" in *probe.cpp*|--version) exec g++ "$@";; esac\necho "error: licence expired" >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with policies(campaign) as server, pytest.raises(StartError, match="vLLM was lost twice.*licence expired"):
        asyncio.run(ask(server, tries=4))
    assert len(list((tmp_path / "data" / "logs").glob("vllm-*.log"))) == 2
