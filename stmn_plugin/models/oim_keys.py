"""Keys of the loss OIM, for sections of systems that have it."""

from dataclasses import dataclass

from stmn_plugin.config.rules import DECAY, WEIGHT, Number
from stmn_plugin.config.settings import setting
from stmn_plugin.losses.oim import OIMTable


@dataclass(frozen=True)
class OIMConfig:
    """Weight and numbers of OIM; whether a system has it is a key of its own section."""

    oim_weight: float = setting(1.0, WEIGHT, 'weight of OIM', in_vectors=False)
    oim_scale: float = setting(
        30.0, Number(0, 1_000, above=True), 'scale of the inner products of OIM', in_vectors=False
    )
    oim_momentum: float = setting(
        0.5,
        DECAY,
        'momentum of the table of OIM: share of a row that stays at an update',
        in_vectors=False,
    )

    def table(self, num_classes: int, dim: int) -> OIMTable:
        """Build the table of OIM, of features (N, dim)."""
        return OIMTable(num_classes, dim, self.oim_scale, self.oim_momentum)
