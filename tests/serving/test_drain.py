"""Draining: a worker that stops wants no more, answers what it has, and keeps nobody waiting."""

import asyncio
import threading

from hypothesis import given
from hypothesis import strategies as st

from serving.drain import DrainRule
from serving.frames import Kind, RankedReply, decode_state
from tests.free_ports import free_port
from tests.serving.test_worker_and_pool import a_caller, a_pool, a_random_request, ask, assert_right, retries
from tests.serving.workbench import PATIENCE_S, Held, SumOfFeatures, a_replica, a_request

seconds = st.floats(0, 100)


@given(seconds, seconds, st.integers(0, 3), seconds)
def test_draining_ends_in_its_grace_and_not_before_everything_is_answered(
    began_s: float, received_s: float, waiting: int, passed_s: float
) -> None:
    rule = DrainRule(quiet_s=0.1, grace_s=5.0)
    over = rule.is_over(began_s, received_s, waiting, began_s + passed_s)

    if passed_s > rule.grace_s:
        assert over
    elif passed_s < rule.grace_s - 1e-9 and waiting:
        assert not over


def test_gateways_are_told_and_what_they_had_sent_or_still_send_is_answered() -> None:
    program = Held(SumOfFeatures())
    with a_replica(program) as replica, a_caller(replica.address) as caller:
        assert caller.told_of(1).ready
        caller.channel.sendall(a_request(["item-1"], number=1).encode())
        assert program.working.wait(PATIENCE_S)
        caller.channel.sendall(a_request(["item-1"], number=2).encode())
        stopping = threading.Thread(target=replica.stop)
        stopping.start()
        program.let_go.set()

        answered, told = [], []
        try:
            while True:
                kind, body = caller.next()
                if kind is Kind.RANKED:
                    answered.append(RankedReply.decode(body).number)
                elif kind is Kind.STATE:
                    told.append(decode_state(body))
                    caller.channel.sendall(a_request(["item-1"], number=3).encode())  # on its way when it was told
        except EOFError:
            stopping.join(PATIENCE_S)
        replica.start()

    assert answered == [1, 2, 3]
    assert [(state.ready, state.versions) for state in told] == [(False, ())]


def test_queries_go_to_another_replica_as_soon_as_one_drains() -> None:
    async def scenario(staying: str) -> None:
        async with a_pool(leaving.address, staying) as pool:
            async with asyncio.timeout(PATIENCE_S):
                while not all(replica.state.ready for replica in pool.fleet.replicas):
                    await asyncio.sleep(0)
            stop = asyncio.create_task(asyncio.to_thread(leaving.stop))
            while not stop.done():
                request = a_random_request(1)
                assert_right(await ask(pool, request), request)
            await stop

    retries_before = retries()
    with a_replica() as leaving, a_replica() as other:
        asyncio.run(scenario(other.address))
        leaving.start()

    assert retries() == retries_before


def test_a_worker_on_a_tcp_port_answers_like_one_on_a_socket() -> None:
    async def scenario() -> None:
        async with a_pool(address) as pool:
            for seed in range(20):
                request = a_random_request(seed)
                assert_right(await ask(pool, request), request)

    address = f"tcp:127.0.0.1:{free_port()}"
    with a_replica(address=address):
        asyncio.run(scenario())
