"""The conformance suite that every Conveyor store passes, for our stores and for yours.

    pytest --pyargs conveyor.conformance --conveyor-store SCHEME [--conveyor-url TEMPLATE]

or, among a store's own tests:

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def store(self): ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conveyor.conformance.suite import StoreContract

__all__ = ["StoreContract"]


def __getattr__(name: str) -> Any:
    """Import the suite when it is asked for: pytest imports this package in every run."""
    if name == "StoreContract":
        from conveyor.conformance.suite import StoreContract  # noqa: PLC0415

        return StoreContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
