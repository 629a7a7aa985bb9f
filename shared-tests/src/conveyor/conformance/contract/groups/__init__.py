"""Groups: taking turns, sizes, and being forgotten when they are idle."""

from __future__ import annotations

from conveyor.conformance.contract.groups.sizes import GroupNames, Sizes
from conveyor.conformance.contract.groups.turns import Turns


class Groups(Turns, Sizes, GroupNames):
    """Groups."""
