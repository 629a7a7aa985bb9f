"""Dead letters: what fails for good is added elsewhere in the same step, and can be sent back."""

from __future__ import annotations

from conveyor.conformance.behaviour.dead_letters.adding import Dying
from conveyor.conformance.behaviour.dead_letters.obstacles import Obstacles
from conveyor.conformance.behaviour.dead_letters.redriving import Redriving


class DeadLetters(Dying, Redriving, Obstacles):
    """Dead letters."""
