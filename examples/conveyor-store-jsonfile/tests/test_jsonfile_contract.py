"""The contract, on this store."""

from conveyor.conformance import StoreContract


class TestJsonFileStore(StoreContract):
    store_scheme = "jsonfile"
