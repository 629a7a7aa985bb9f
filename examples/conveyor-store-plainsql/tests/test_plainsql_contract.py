"""Two areas of the contract, which between them use most of `conveyor.store.sql`, on this store.

All of them: `pytest --pyargs conveyor.conformance --conveyor-store plainsql`.
"""

from conveyor.conformance.contract.flows import Flows
from conveyor.conformance.contract.groups import Groups
from conveyor.conformance.suite import Fixtures


class TestPlainSqlStore(Flows, Groups, Fixtures):
    store_scheme = "plainsql"
