"""On PYTHONPATH of a trainer: its card is short of memory in step 4 of every run that may hold more than 5 GiB.

The rest of the trainer is as it is. Python imports this in every process; it waits for the one module that it plants a fault in.
"""

import importlib.abc
import importlib.util
import sys

MODULE = "agentloop.training.trainer"


class Planting(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        from agentloop.training.shortage import Shortage

        budget, looks = sys.argv[-1], []

        def look(memory):
            looks.append(1)
            if len(looks) == 4 and (budget == "auto" or float(budget) > 5):
                raise Shortage(planned=6.4, available=5.0)

        module.CardMemory.look = look


sys.meta_path.insert(0, Planting())
