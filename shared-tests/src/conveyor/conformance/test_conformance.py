"""What `pytest --pyargs conveyor.conformance --conveyor-store SCHEME` runs."""

from conveyor.conformance.suite import StoreContract


class TestConformance(StoreContract):
    """The whole contract, on each store that the command line names."""
