"""How many queries a second come when, on a day with two sales."""

from dataclasses import dataclass
from math import cos, pi

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Sale:
    """From at_s on, traffic rises to `times` the usual within rise_s, stays so for stay_s, and falls by half
    each half_s."""

    at_s: float
    times: float
    rise_s: float = 180.0
    stay_s: float = 1200.0
    half_s: float = 1800.0

    def factor(self, at_s: float) -> float:
        """What it multiplies the usual traffic by."""
        into = at_s - self.at_s
        if into <= 0:
            return 1.0
        if into < self.rise_s:
            return 1 + (self.times - 1) * into / self.rise_s
        over = into - self.rise_s - self.stay_s
        return self.times if over <= 0 else 1 + (self.times - 1) * 2 ** (-over / self.half_s)


@dataclass(frozen=True, slots=True)
class SalesDay:
    """usual_s: queries a second at the busiest hour without a sale; night: share of it at 04:00, the quietest."""

    usual_s: float
    night: float = 0.3
    sales: tuple[Sale, ...] = (Sale(10 * 3600.0, 4.0), Sale(20 * 3600.0, 3.0, rise_s=120.0))

    def rate_s(self, at_s: float) -> float:
        """Queries a second at that second of the day."""
        daily = self.night + (1 - self.night) * (1 - cos(2 * pi * (at_s / DAY_S - 4 / 24))) / 2
        for sale in self.sales:
            daily *= sale.factor(at_s)
        return self.usual_s * daily
