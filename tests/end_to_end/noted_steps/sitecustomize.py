"""On PYTHONPATH of a run that is to be killed: writes down when each step begins, and changes nothing else.

Python imports this in every process; only those that run a flow have the module that it waits for.
"""

import importlib.abc
import importlib.util
import os
import sys
import time

STEPS = {
    "agentloop.campaign.campaign": [("Campaign", "step", lambda self, name, *_, **__: name)],
    "agentloop.campaign.collect": [
        (None, "collect_shard", lambda *_, purpose, **__: purpose),
        (None, "ingest_shards", lambda *_, **__: "ingest"),
    ],
    "agentloop.campaign.report": [(None, "write", lambda *_, **__: "report")],
}
"""By module: class, function, and the step's name from the function's arguments."""


def note(name):
    with open(os.environ["NOTED_STEPS"], "a") as file:
        file.write(f"{name} {time.time()}\n")


class Noting(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name not in STEPS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        self.loader, spec.loader = spec.loader, self
        spec.loader_state = self.loader
        return spec

    def create_module(self, spec):
        return spec.loader_state.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader_state.exec_module(module)
        for holder, function, named in STEPS[module.__name__]:
            owner = getattr(module, holder) if holder else module
            setattr(owner, function, noting(getattr(owner, function), named))


def noting(function, named):
    def noted(*arguments, **options):
        note(named(*arguments, **options))
        return function(*arguments, **options)

    return noted


if "NOTED_STEPS" in os.environ:
    sys.meta_path.insert(0, Noting())
