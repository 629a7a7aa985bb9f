"""The shared suite on this store."""

from conveyor.conformance import StoreContract


class TestSqliteContract(StoreContract):
    store_scheme = "sqlite"
