"""What every ledger of quotas does: grants no more than there is, and all of it."""

import time
from concurrent.futures import ThreadPoolExecutor

from registry.quotas import LeaseAsk, Quota, QuotaLedger

PATIENCE_S = 10.0


def one(ledger: QuotaLedger, ask: LeaseAsk, gateway: str = "g1") -> int:
    return ledger.lease(gateway, [ask])[0][0].granted


class QuotaLedgerSuite:
    """Subclasses supply the fixture `ledger`. Rates are so low that no token comes meanwhile, or are measured."""

    def test_a_full_quota_grants_its_burst_and_then_says_how_long_to_wait(self, ledger: QuotaLedger) -> None:
        quota = Quota("slow", rate_per_s=0.001, burst=5.0)

        assert one(ledger, LeaseAsk(quota, wanted=3)) == 3
        assert one(ledger, LeaseAsk(quota, wanted=100)) == 2
        [refused], _ = ledger.lease("g1", [LeaseAsk(quota, wanted=2, least=2)])
        assert refused.granted == 0
        assert 1990.0 < refused.wait_s <= 2000.0

    def test_who_has_no_use_for_less_takes_nothing(self, ledger: QuotaLedger) -> None:
        quota = Quota("slow", rate_per_s=0.001, burst=5.0)

        assert one(ledger, LeaseAsk(quota, wanted=6, least=6)) == 0
        assert one(ledger, LeaseAsk(quota, wanted=6, least=5)) == 5

    def test_quotas_share_nothing_but_the_round_trip(self, ledger: QuotaLedger) -> None:
        asks = [LeaseAsk(Quota(name, 0.001, burst), wanted=9) for name, burst in (("a", 1.0), ("b", 4.0), ("c", 9.0))]

        assert [lease.granted for lease in ledger.lease("g1", asks)[0]] == [1, 4, 9]
        assert [lease.granted for lease in ledger.lease("g1", asks)[0]] == [0, 0, 0]

    def test_gateways_that_asked_lately_are_counted(self, ledger: QuotaLedger) -> None:
        assert [ledger.lease(name, [])[1] for name in ("g1", "g2", "g1", "g3")] == [1, 2, 2, 3]

    def test_of_many_at_once_all_together_get_what_there_is(self, ledger: QuotaLedger) -> None:
        ask = LeaseAsk(Quota("slow", rate_per_s=0.001, burst=100.0), wanted=7)
        with ThreadPoolExecutor(4) as pool:
            granted = list(pool.map(lambda i: one(ledger, ask, f"g{i % 4}"), range(60)))

        assert sum(granted) == 100

    def test_over_time_no_more_than_burst_and_rate_is_granted(self, ledger: QuotaLedger) -> None:
        quota = Quota("quick", rate_per_s=2000.0, burst=50.0)
        began_s, granted = time.monotonic(), 0
        while time.monotonic() < began_s + 0.3:
            granted += one(ledger, LeaseAsk(quota, wanted=30))
        elapsed_s = time.monotonic() - began_s

        assert 50 < granted <= 50 + 2000.0 * elapsed_s + 1

    def test_a_quota_that_was_made_larger_is_refilled_at_its_new_rate(self, ledger: QuotaLedger) -> None:
        assert one(ledger, LeaseAsk(Quota("q", 0.001, 10.0), wanted=10)) == 10
        larger = LeaseAsk(Quota("q", 100.0, 10.0), wanted=10)
        assert one(ledger, larger) == 0  # what was spent stays spent

        until_s = time.monotonic() + PATIENCE_S
        while not one(ledger, larger):
            assert time.monotonic() < until_s, "the old rate still counts"
            time.sleep(0.005)
