"""Store: the contract, with what every store can do by means of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from conveyor.core.store.contract import StoreCalls
from conveyor.core.store.using import buffered

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType


@runtime_checkable
class Store(StoreCalls, Protocol):
    """A place that keeps jobs. Subclassing it is optional, and gives `using` and `async with`.

    A store class also offers `from_url(url, **options)`, which `open_store` calls: it returns a store that
    is not open yet, and raises InvalidOptionError for a URL or an option it cannot use.
    """

    def using(self, connection: Any = None) -> AbstractAsyncContextManager[Store]:
        """A block whose jobs exist together or not at all: a store to add to and read from within it.

        They are added in one step when the block ends, and dropped if it raises. Within it they have their
        ids, and are read like stored ones; what is neither adding nor reading is refused. Once it has ended,
        nothing can be added, and all other calls go to the store itself.

        This form takes no part in the `connection`, which is there for a store that can add jobs in a
        transaction of its user's: such a store has a `using` of its own.
        """
        del connection
        return buffered(self)

    async def __aenter__(self) -> Self:
        """Open the store."""
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store."""
        await self.close()
