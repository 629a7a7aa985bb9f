"""Options of a store, as they come from a URL or as keywords."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from conveyor.core.errors import HIDDEN, InvalidOptionError

_FLAGS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def checked_flag(option: str, value: object, more: str = "") -> bool:
    """A choice of yes or no, which in a URL is a word; raises InvalidOptionError for anything else.

    `more` is what may be given besides, for the message.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    raise InvalidOptionError(option, value, f"give True or False{more}")


def refuse_unknown(scheme: str, known: Collection[str], given: Iterable[str]) -> None:
    """Raise InvalidOptionError for the first of these names that no option of the store has."""
    for name in given:
        if name not in known:
            raise InvalidOptionError(name, HIDDEN, f"the options of {scheme} are {', '.join(known)}")
