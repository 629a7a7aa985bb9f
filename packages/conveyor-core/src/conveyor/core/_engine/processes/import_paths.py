"""Handlers by their import paths, for processes that import them.

Only what a worker was given is looked for, never a name that a store holds.
"""

from __future__ import annotations

import importlib
import inspect
import runpy
import sys
import types
from functools import reduce
from pathlib import Path
from typing import Any, Final

from conveyor.core.errors import InvalidOptionError

_MAIN: Final = "__main__"
#: What the program's own file is called where it is imported once more, as multiprocessing has it.
_AGAIN: Final = "__mp_main__"
_HOW: Final = "processes import it by name: write it at the top level of a module"

#: Whether this process runs the program's own file for what is defined there.
loading_main = False


def import_path(value: object, option: str) -> list[str]:
    """The module of a function or class, and its name there.

    Raises InvalidOptionError, naming `option`, if nothing can be imported by them but something else, or
    nothing at all: of lambdas, local functions, methods of objects, `functools.partial`.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise InvalidOptionError(option, value, f"{_HOW}; this is {_kind(value)}, which has no name there")
    try:
        found = _found(sys.modules[module], name)
    except (KeyError, AttributeError):
        raise InvalidOptionError(option, value, f"{_HOW}; there is no {name} in {module}") from None
    if found is not value and not (inspect.ismethod(value) and found == value):
        raise InvalidOptionError(option, value, f"{_HOW}; {name} in {module} is something else")
    if module == _MAIN and main_program() is None:
        raise InvalidOptionError(
            option,
            value,
            f"{_HOW}; it is in the program that was started, which has no file that can be imported",
        )
    return [module, name]


def main_program() -> dict[str, str] | None:
    """How to run the program's own file once more; None if that cannot be done."""
    main = sys.modules[_MAIN]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return None if spec.name == _MAIN else {"module": spec.name}
    file = getattr(main, "__file__", None)
    return {"path": str(Path(file).resolve())} if file is not None and Path(file).is_file() else None


def imported(path: list[str], main: dict[str, str] | None) -> Any:
    """What has this path; `main` is the program of the process that knows it as `__main__`."""
    module, name = path
    found = _run_again(main) if module == _MAIN and main is not None else importlib.import_module(module)
    return _found(found, name)


def _run_again(main: dict[str, str]) -> types.ModuleType:
    """The program's own file as a module: it is run, but for what stands under `__name__ == "__main__"`."""
    global loading_main  # noqa: PLW0603 - it is of the process
    if (known := sys.modules.get(_AGAIN)) is not None:
        return known
    loading_main = True
    try:
        if "path" in main:
            names = runpy.run_path(main["path"], run_name=_AGAIN)
        else:
            names = runpy.run_module(main["module"], run_name=_AGAIN, alter_sys=True)
    finally:
        loading_main = False
    module = types.ModuleType(_AGAIN)
    vars(module).update(names)
    # What is pickled by the program or by what the handler starts names it by either.
    sys.modules[_MAIN] = sys.modules[_AGAIN] = module
    return module


def _found(module: object, name: str) -> Any:
    return reduce(getattr, name.split("."), module)


def _kind(value: object) -> str:
    return f"an object of the type {type(value).__name__}"
