"""The released code's guard of ATC: AIC and ITC wait while they harm it."""

from dataclasses import asdict, dataclass

from biovita.train.recipe import Gate


@dataclass
class Keeper:
    """Watches ATC and says whether the gate is open.

    Attributes:
        gate: the numbers.
        before: mean of ATC before training.
        mean: moving mean of ATC.
        is_open: whether AIC and ITC take part.
        streak: steps in a row in which the mean was low enough to open again.

    Source:
        BioVITA's released code, stage 2, phase 2; the paper has no such gate.
    """

    gate: Gate
    before: float = 0.0
    mean: float = 0.0
    is_open: bool = True
    streak: int = 0

    def note(self, atc: float) -> None:
        """Take the ATC of a step."""
        self.mean = self.gate.memory * (self.mean or atc) + (1 - self.gate.memory) * atc
        if self.is_open:
            self.is_open = self.mean <= self.before * (1 + self.gate.above)
            self.streak = 0
            return
        self.streak = self.streak + 1 if self.mean < self.before * (1 + self.gate.below) else 0
        self.is_open = self.streak >= self.gate.patience

    @property
    def ceiling(self) -> float:
        """Above it ATC costs `gate.penalty` times more."""
        return self.before * (1 + self.gate.above)

    def state(self) -> dict[str, float]:
        """Return all but the numbers, for a checkpoint."""
        return {name: float(value) for name, value in asdict(self).items() if name != "gate"}

    def take(self, state: dict[str, float]) -> None:
        """Go on from what `state` returned."""
        self.before, self.mean = state["before"], state["mean"]
        self.is_open, self.streak = bool(state["is_open"]), int(state["streak"])
