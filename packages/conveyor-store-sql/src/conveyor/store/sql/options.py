"""Options of a store, as they come from a URL or as keywords."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
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


def refuse_unknown(
    scheme: str, known: Collection[str], given: Iterable[str], query: Sequence[tuple[str, str]] = ()
) -> None:
    """Raise InvalidOptionError for the first of these names that no option of the store has.

    `given` are keywords. `query` is what stands behind a URL's `?`, as `urllib.parse.parse_qsl` returns it;
    keep it apart from the keywords, for what looks like a name there is shown only if `shown_name` shows it.
    """
    allowed = f"the options of {scheme} are {', '.join(known)}"
    for name in given:
        if name not in known:
            raise InvalidOptionError(name, HIDDEN, allowed)
    for name, _ in query:
        if name not in known:
            raise InvalidOptionError(shown_name(name, query), HIDDEN, allowed)


def shown_name(name: str, query: Sequence[tuple[str, str]]) -> str:
    """What an error calls an option that stands in a URL: by its name, or "url" if that may be a secret.

    With an `@` behind the `?` it may be part of a password that contains both, as they are.
    """
    safe = name.isidentifier() and not any("@" in part for pair in query for part in pair)
    return name if safe else "url"
