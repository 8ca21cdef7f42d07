"""Arithmetic with a calculator of which one call in five goes wrong: it complains, raises, hangs or ends its process."""

import os
import random
import time

from agentloop.environments.arithmetic import Arithmetic
from agentloop.tools import ToolError
from agentloop.tools.calculator import Calculator


class UnreliableCalculator(Calculator):
    def call(self, /, *args, **kwargs):
        fate = random.random()
        if fate < 0.05:
            raise ToolError("out of order, try again")
        if fate < 0.10:
            raise RuntimeError("the service behind the tool answered 503")
        if fate < 0.15:
            time.sleep(3600)
        if fate < 0.20:
            os._exit(7)
        return super().call(*args, **kwargs)


class Chaos(Arithmetic):
    name = "chaos"

    def tools(self, task):
        return {Calculator.name: UnreliableCalculator()}
