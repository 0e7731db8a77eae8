"""How long to wait before trying again: exponential, with jitter, pure.

Jitter spreads the retries of many clients that lost the same server at the same moment. The random number is an
argument, so that the decision can be tested; drivers pass ``random.random()``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """A schedule of growing waits, in seconds."""

    initial: float
    """The first wait's upper bound."""
    maximum: float
    """No wait is longer."""
    factor: float = 2.0
    """Growth from one failure to the next."""

    def delay(self, failures: int, random_unit: float) -> float:
        """The wait after that many failures in a row.

        Args:
            failures: 1 or more.
            random_unit: at least 0, less than 1.

        Returns:
            Seconds: between half of this step's bound and the bound.
        """
        # The exponent is capped: factor ** 5000 would overflow after a night without a server.
        bound = min(self.maximum, self.initial * self.factor ** min(max(failures - 1, 0), 64))
        return bound * (0.5 + random_unit / 2)
