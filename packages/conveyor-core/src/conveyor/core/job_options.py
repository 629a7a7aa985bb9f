"""The options of `add`, checked where they are given, and what a worker reads of them later."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypedDict

from conveyor.core import _documents
from conveyor.core.backoff import Backoff
from conveyor.core.durations import LONGEST, Duration, duration, instant
from conveyor.core.errors import InvalidOptionError
from conveyor.core.store import Retention

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INT32: Final = 2_147_483_647
LONGEST_NAME: Final = 255
#: An age like any other, a hundred years, so that no store has to know what "for ever" is.
FOREVER: Final = Retention(age=LONGEST)

#: What becomes of a parent when a child of its own fails.
ChildFailurePolicy = Literal["fail", "ignore", "remove"]


@dataclass(frozen=True, slots=True, init=False)
class Deduplication:
    """At most one job for one key: while that is unfinished, or with `ttl` for that long from its add.

    With mode `"replace"` a waiting or delayed holder takes the new data, and the new delay if one is given.
    """

    key: str | None
    ttl: timedelta | None
    mode: Literal["keep", "replace"]

    def __init__(
        self, key: str | None = None, ttl: Duration | None = None, mode: Literal["keep", "replace"] = "keep"
    ) -> None:
        if key is None:
            raise InvalidOptionError("key", key, "give a key, or use Deduplication.by_payload()")
        self._fill(key, ttl, mode)

    @classmethod
    def by_payload(cls, ttl: Duration | None = None, mode: Literal["keep", "replace"] = "keep") -> Self:
        """Two jobs are the same when their names and their data are equal."""
        made = cls.__new__(cls)
        made._fill(None, ttl, mode)  # noqa: SLF001 - its own method
        return made

    def _fill(self, key: object, ttl: Duration | None, mode: object) -> None:
        if key is not None:
            checked_key(key, "key")
        if mode not in ("keep", "replace"):
            raise InvalidOptionError("mode", mode, 'use "keep" or "replace"')
        put = object.__setattr__
        put(self, "key", key)
        put(self, "ttl", None if ttl is None else duration(ttl, "ttl", zero=False))
        put(self, "mode", mode)


@dataclass(frozen=True, slots=True, init=False)
class Group:
    """The group a job belongs to; `max_size` refuses the job if as many wait there already."""

    id: str
    max_size: int | None

    def __init__(self, id: str, max_size: int | None = None) -> None:
        object.__setattr__(self, "id", checked_name(id, "id"))
        object.__setattr__(
            self, "max_size", None if max_size is None else whole(max_size, "max_size", least=1)
        )


@dataclass(frozen=True, slots=True, init=False)
class Keep:
    """How long finished jobs are kept: for `age`, and at most the latest `count` of their queue and state."""

    age: timedelta | None
    count: int | None

    def __init__(self, age: Duration | None = None, count: int | None = None) -> None:
        if age is None and count is None:
            allowed = 'give an age, a count, or both; to keep for ever use "forever"'
            raise InvalidOptionError("age", None, allowed)
        object.__setattr__(self, "age", None if age is None else duration(age, "age"))
        object.__setattr__(self, "count", None if count is None else whole(count, "count", least=0))


#: How long finished jobs are kept.
Keeping = Keep | Duration | Literal["forever"]


class AddOptions(TypedDict, total=False):
    """The keywords of `add`, and of everything that adds a job."""

    attempts: int
    backoff: Backoff | str | float | timedelta | Sequence[Duration] | None
    delay: Duration | None
    run_at: datetime | None
    priority: int
    lifo: bool
    timeout: Duration | None
    job_id: str | None
    deduplication: Deduplication | None
    group: Group | str | None
    keep: Keeping | None
    remove_on_complete: bool | Duration | Keep
    remove_on_fail: bool | Duration | Keep
    fail_parent_on_child_failure: ChildFailurePolicy
    dead_letter: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What a job's options say about its runs, its end and its children."""

    attempts: int = 1
    backoff: Backoff | None = None
    timeout: timedelta | None = None
    #: How long it is kept once it has finished; None: its worker says, or its queue.
    keep: Retention | None = None
    queue_keep: Retention | None = None
    #: The same once it has completed, or failed, if that is not as `keep` says.
    remove_on_complete: Retention | None = None
    remove_on_fail: Retention | None = None
    #: What becomes of this job when a child of its own fails.
    fail_parent_on_child_failure: ChildFailurePolicy = "fail"
    #: The ids of the children it was added with, in their order.
    children: tuple[str, ...] = ()
    #: Whether the end of this job as failed is also the end of its parent's waiting.
    fails_parent: bool = False
    #: The queue to which the job is added when it fails for good.
    dead_letter: str | None = None
    #: The schedule that made the job, and what the run was planned for.
    schedule_key: str | None = None
    scheduled_for: datetime | None = None

    def encode(self) -> str:
        """JSON text of what differs from the defaults."""
        return _documents.encode(self)

    @staticmethod
    def decode(text: str) -> JobOptions:
        """What was stored by `encode`. Entries of a later release are passed over.

        Raises ValueError for anything else.
        """
        # The text of a parent names its children: it is long, and no other job has the same.
        return _documents.decode(JobOptions, text) if '"children"' in text else _remembered(text)


@lru_cache(maxsize=1024)
def _remembered(text: str) -> JobOptions:
    return _documents.decode(JobOptions, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The options of one `add`, checked."""

    settings: JobOptions
    delay: timedelta | None
    run_at: datetime | None
    priority: int
    lifo: bool
    job_id: str | None
    deduplication: Deduplication | None
    group: Group | None


def parse(given: Mapping[str, Any]) -> Parsed:
    """Check the options of an `add`.

    Raises InvalidOptionError, naming the option, the value and what is allowed.
    """
    unknown = given.keys() - AddOptions.__annotations__.keys()
    if unknown:
        name = min(unknown, key=str)
        known = ", ".join(sorted(AddOptions.__annotations__))
        raise InvalidOptionError(str(name), given[name], f"there is no such option; there are {known}")
    delay, run_at = given.get("delay"), given.get("run_at")
    if delay is not None and run_at is not None:
        raise InvalidOptionError("run_at", run_at, "give a delay or a run_at, not both")
    timeout, job_id, group = given.get("timeout"), given.get("job_id"), given.get("group")
    deduplication, dead_letter = given.get("deduplication"), given.get("dead_letter")
    if deduplication is not None and not isinstance(deduplication, Deduplication):
        raise InvalidOptionError(
            "deduplication", deduplication, 'use Deduplication("key") or Deduplication.by_payload()'
        )
    if group is not None and not isinstance(group, Group):
        try:
            group = Group(group)
        except InvalidOptionError as error:
            raise InvalidOptionError("group", group, error.allowed) from None
    return Parsed(
        settings=JobOptions(
            attempts=whole(given.get("attempts", 1), "attempts", least=1),
            backoff=Backoff.of(given.get("backoff")),
            timeout=None if timeout is None else duration(timeout, "timeout", zero=False),
            keep=checked_keep(given.get("keep")),
            remove_on_complete=_removal(given, "remove_on_complete"),
            remove_on_fail=_removal(given, "remove_on_fail"),
            fail_parent_on_child_failure=_policy(given.get("fail_parent_on_child_failure", "fail")),
            dead_letter=None if dead_letter is None else checked_name(dead_letter, "dead_letter"),
        ),
        delay=None if delay is None else duration(delay, "delay"),
        run_at=None if run_at is None else instant(run_at, "run_at"),
        priority=whole(given.get("priority", 0), "priority", least=-INT32 - 1),
        lifo=flag(given.get("lifo", False), "lifo"),
        job_id=None if job_id is None else checked_name(job_id, "job_id"),
        deduplication=deduplication,
        group=group,
    )


def checked_name(value: object, option: str) -> str:
    """A name of a queue, a job, a group or an id: 1 to 255 characters, none of them a control character.

    Raises InvalidOptionError otherwise. Names are kept as they are: nothing is normalised.
    """
    allowed = f"it is a string of 1 to {LONGEST_NAME} characters, without control characters"
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_NAME:
        raise InvalidOptionError(option, value, allowed)
    if not value.isprintable() and (
        not _encodable(value) or any(unicodedata.category(letter) == "Cc" for letter in value)
    ):
        raise InvalidOptionError(option, value, allowed)
    return value


def checked_key(value: object, option: str) -> str:
    """A deduplication key: valid Unicode without NUL, of any length above zero.

    Raises InvalidOptionError otherwise.
    """
    if not isinstance(value, str) or not value or "\x00" in value or not _encodable(value):
        raise InvalidOptionError(option, value, "it is a string of at least one character, without NUL")
    return value


def whole(value: object, option: str, *, least: int, most: int = INT32) -> int:
    """A whole number within bounds; True and 1.0 are not whole numbers.

    Raises InvalidOptionError otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidOptionError(option, value, f"it is a whole number from {least:,} to {most:,}")
    return value


def flag(value: object, option: str) -> bool:
    """True or False.

    Raises InvalidOptionError otherwise.
    """
    if not isinstance(value, bool):
        raise InvalidOptionError(option, value, "it is True or False")
    return value


def _policy(value: object) -> ChildFailurePolicy:
    match value:
        case "fail":
            return "fail"
        case "ignore":
            return "ignore"
        case "remove":
            return "remove"
    raise InvalidOptionError("fail_parent_on_child_failure", value, 'use "fail", "ignore" or "remove"')


def checked_keep(value: object) -> Retention | None:
    """What `keep=` means; None: nothing is said.

    Raises InvalidOptionError.
    """
    match value:
        case None:
            return None
        case "forever":
            return FOREVER
        case Keep():
            return Retention(age=value.age, count=value.count)
        case timedelta() | int() | float() | str() if not isinstance(value, bool):
            return Retention(age=duration(value, "keep"))
    raise InvalidOptionError("keep", value, 'use "forever", an age, or Keep(age=..., count=...)')


def _removal(given: Mapping[str, Any], option: str) -> Retention | None:
    if option not in given:
        return None
    match value := given[option]:
        case True:
            return Retention(age=timedelta(0))
        case False:
            return FOREVER
        case Keep():
            return Retention(age=value.age, count=value.count)
        case timedelta() | int() | float() | str():
            return Retention(age=duration(value, option))
    raise InvalidOptionError(option, value, "use True, False, an age, or Keep(age=..., count=...)")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
