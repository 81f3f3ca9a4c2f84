"""Put first in PYTHONPATH, this makes the processes of a test's sweep fail where RAYDUAL_TEST_FAULTS says.

The variable holds JSON: a list of `{"at": "module:Class.method", "kind": ..., "seed": ..., "once": FILE}`. The method
is replaced, as soon as its module has been imported, by one that fails first: `exit` kills the process, `raise` raises,
`hang` sleeps for ever, `slow` sleeps `seconds`, `wait` waits for a file `under` a folder that fits the `pattern`. With
`seed`, only when a case of that seed is among the arguments. With `once`, only for the process that succeeds in
creating that file; `times` files can be created.
"""

import functools
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path


def _first(fault):
    if "once" not in fault:
        return True
    for number in range(fault.get("times", 1)):
        try:
            os.close(os.open(f"{fault['once']}.{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return True
    return False


def _seeds(arguments):
    for argument in arguments:
        if isinstance(argument, (list, tuple)):
            yield from _seeds(argument)
        elif hasattr(argument, "context"):
            yield argument.context.seed
        elif hasattr(argument, "seed"):
            yield argument.seed
        elif isinstance(argument, int):
            yield argument


def _failing(method, fault):
    @functools.wraps(method)
    def fail_first(*arguments, **named):
        if ("seed" not in fault or fault["seed"] in set(_seeds(arguments[1:]))) and _first(fault):
            if fault["kind"] == "exit":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault["kind"] == "raise":
                raise ValueError(f"broken {fault.get('seed', '')}".strip())
            elif fault["kind"] == "hang":
                time.sleep(10**6)
            elif fault["kind"] == "slow":
                time.sleep(fault["seconds"])
            elif fault["kind"] == "wait":
                while not any(Path(fault["under"]).glob(fault["pattern"])):
                    time.sleep(0.05)
            elif fault["kind"] == "mark":
                Path(fault["file"]).touch()
        return method(*arguments, **named)

    return fail_first


class _Loader(importlib.abc.Loader):
    def __init__(self, loader, faults):
        self.loader, self.faults = loader, faults

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        for fault in self.faults:
            owner, _, name = fault["at"].partition(":")[2].rpartition(".")
            place = getattr(module, owner) if owner else module
            setattr(place, name, _failing(getattr(place, name), fault))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, faults):
        self.faults = faults

    def find_spec(self, name, path=None, target=None):
        here = [fault for fault in self.faults if fault["at"].partition(":")[0] == name]
        if not here:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        spec.loader = _Loader(spec.loader, here)
        return spec


if os.environ.get("RAYDUAL_TEST_FAULTS"):
    sys.meta_path.insert(0, _Finder(json.loads(os.environ["RAYDUAL_TEST_FAULTS"])))
