"""Groups: taking turns, sizes, and being forgotten when they are idle."""

from __future__ import annotations

from conveyor.conformance.contract.groups.fair_share import FairShare
from conveyor.conformance.contract.groups.sizes import GroupNames, Sizes


class Groups(FairShare, Sizes, GroupNames):
    """Groups."""
