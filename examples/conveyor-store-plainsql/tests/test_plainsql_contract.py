"""The two areas of the contract that stand most on `conveyor.store.sql`, on this store.

All of them: `pytest --pyargs conveyor.conformance --conveyor-store plainsql`.
"""

from conveyor.conformance.contract.flows import Flows
from conveyor.conformance.contract.settling import Settling
from conveyor.conformance.suite import Fixtures


class TestPlainSqlStore(Settling, Flows, Fixtures):
    store_scheme = "plainsql"
