"""The shared suite on this store; its races run over several connections and in several processes."""

from conveyor.conformance import StoreContract


class TestPgContract(StoreContract):
    store_scheme = "postgresql"
