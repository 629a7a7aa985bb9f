"""The contract, on this store."""

from conveyor.conformance import StoreContract


class TestMemoryStore(StoreContract):
    store_scheme = "memory"
