"""Versions that run on a real tritonserver, alone and behind a real worker."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from registry.contracts.features import Column, FeatureView
from registry.contracts.manifest import ModelManifest, ModelPackage, RemoteModel, TensorSpec
from serving.errors import DeadlineExceeded, QueryRefused, RankingError, RemoteUnfit, ReplicaUnhealthy
from serving.frames import FailedReply, FrameBuffer, Kind, RankedReply, ScoreRequest, encode_cancel
from serving.program import TorchProgram
from serving.replicas import ReplicaPool
from serving.scoring import LoadedModel
from serving.tensors import DATATYPES, DTYPES, Tensor, join_bytes
from serving.triton import TritonProgram, open_remote, piece_bounds
from serving.triton_connection import TritonConnection
from serving.triton_signature import read_signature
from tests.builders import a_manifest, a_package, a_plan
from tests.serving.test_worker_and_pool import Caller, a_caller
from tests.serving.workbench import (
    MATCH,
    PATIENCE_S,
    VIEW,
    WORDS,
    Replica,
    a_loaded_model,
    a_replica,
    a_request,
)
from tests.triton import RemoteSource, TritonServer, a_triton

MAX_ROWS = 64
RANKER_CONFIG = f"""
max_batch_size: {MAX_ROWS}
input [ {{ name: "features" data_type: TYPE_FP32 dims: [ 3 ] }} ]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ }}
"""
RANKER = """
import time
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            rows = pb.get_input_tensor_by_name(request, "features").as_numpy()
            if (rows == 500).any():  # a row of this model that breaks it
                answers.append(pb.InferenceResponse(error=pb.TritonError("poison")))
                continue
            if (rows == 300).any():  # one that keeps it busy
                time.sleep(3)
            answers.append(pb.InferenceResponse([pb.Tensor("scores", rows.sum(axis=1, keepdims=True))]))
        return answers
"""
LISTWISE_CONFIG = f"""
max_batch_size: {MAX_ROWS}
input [
  {{ name: "features" data_type: TYPE_FP32 dims: [ 3 ] }},
  {{ name: "query_index" data_type: TYPE_INT64 dims: [ 1 ] }}
]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
LISTWISE = """
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            rows = pb.get_input_tensor_by_name(request, "features").as_numpy().sum(axis=1)
            lists = pb.get_input_tensor_by_name(request, "query_index").as_numpy()[:, 0]
            means = np.bincount(lists, rows) / np.maximum(np.bincount(lists), 1)
            scores = (rows - means[lists]).astype(np.float32)
            answers.append(pb.InferenceResponse([pb.Tensor("scores", scores[:, None])]))
        return answers
"""
ECHO = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            tensors = []
            for given in request.inputs():
                if given.name() == "BF16":  # numpy has no such type
                    import torch
                    copy = torch.from_dlpack(given.to_dlpack()).clone()
                    tensors.append(pb.Tensor.from_dlpack("BF16_out", copy))
                else:
                    tensors.append(pb.Tensor(given.name() + "_out", given.as_numpy()))
            answers.append(pb.InferenceResponse(tensors))
        return answers
"""


def an_echo(shape: str, max_rows: int = 0) -> RemoteSource:
    """Gives every input back, of each datatype one."""
    types = {name: "STRING" if name == "BYTES" else name for name in DATATYPES}
    given = ", ".join(f'{{ name: "{name}" data_type: TYPE_{types[name]} dims: {shape} }}' for name in types)
    back = ", ".join(f'{{ name: "{name}_out" data_type: TYPE_{types[name]} dims: {shape} }}' for name in types)
    kind = "instance_group [ { kind: KIND_CPU count: 1 } ]"
    return RemoteSource(f"max_batch_size: {max_rows}\ninput [ {given} ]\noutput [ {back} ]\n{kind}", ECHO)


@pytest.fixture(scope="module")
def triton() -> Iterator[TritonServer]:
    """A server with the models above; tests that stop it start it again."""
    models = {
        "ranker": RemoteSource(RANKER_CONFIG, RANKER),
        "listwise": RemoteSource(LISTWISE_CONFIG, LISTWISE),
        "echo": an_echo("[ -1, 2 ]"),
        "echo_rows": an_echo("[ 2 ]", max_rows=4),
        "streaming": RemoteSource(RANKER_CONFIG + "model_transaction_policy { decoupled: true }", RANKER),
        "stateful": RemoteSource(RANKER_CONFIG.replace("dynamic_batching", "sequence_batching"), RANKER),
    }
    with a_triton(models) as server:
        yield server


def a_remote_manifest(model: str = "ranker", **changes: Any) -> ModelManifest:
    """Of a ranker over the workbench's view."""
    fields = {
        "inputs": (TensorSpec("features", "FP32", (-1, 3)),),
        "outputs": (TensorSpec("scores", "FP32", (-1, 1)),),
        "remote": RemoteModel("gpu-a", model),
    }
    return msgspec.structs.replace(a_manifest(VIEW), **(fields | changes))


def an_echo_manifest(model: str, shape: tuple[int, ...]) -> ModelManifest:
    return a_remote_manifest(
        model,
        inputs=tuple(TensorSpec(name, name, shape) for name in DATATYPES),
        outputs=tuple(TensorSpec(f"{name}_out", name, shape) for name in DATATYPES),
        view={},
        fingerprint="",
    )


def opened(triton: TritonServer, manifest: ModelManifest | None = None) -> TritonProgram:
    return open_remote(manifest or a_remote_manifest(), {"gpu-a": triton.address})


@contextmanager
def a_remote_replica(triton: TritonServer, manifest: ModelManifest | None = None) -> Iterator[Replica]:
    """A worker that holds the remote `codesearch` and, of the same sum, a `native` version."""
    program = opened(triton, manifest)

    def load(model: str, version: int, digest: str) -> LoadedModel:
        if model == "native":
            return a_loaded_model(version=version, digest=digest, model=model)
        loaded = a_loaded_model(program, version=version, digest=digest, model=model)
        loaded.calls = program.calls
        return loaded

    with a_replica(load=load) as replica:
        replica.follow(a_plan(), a_plan("native", champion=2, champion_digest=f"{2:064x}"))
        yield replica
    program.close()


def a_slow_request(number: int, deadline_us: int = 60_000_000) -> ScoreRequest:
    """For the remote version, which is busy with it for three seconds."""
    return a_request(["item-1"], {WORDS: 1.0}, {MATCH: [300.0]}, number=number, deadline_us=deadline_us)


def random_tensors(rows: int, seed: int = 0) -> list[Tensor]:
    """One of shape (rows, 2) for every datatype."""
    random = np.random.default_rng(seed)
    tensors = []
    for name in DATATYPES:
        if name == "BYTES":
            data = join_bytes([random.bytes(int(size)) for size in random.integers(0, 9, rows * 2)])
        elif name == "BOOL":
            data = random.integers(0, 2, rows * 2, dtype=np.uint8).tobytes()
        else:
            data = random.bytes(rows * 2 * DTYPES[name].itemsize)
        tensors.append(Tensor(name, name, (rows, 2), data))
    return tensors


def ask(address: str, *requests: Any, within_s: float = PATIENCE_S) -> list[RankedReply | RankingError]:
    """What a gateway's pool gets for these requests, all sent at once."""

    async def one(pool: ReplicaPool, request: Any) -> RankedReply | RankingError:
        try:
            reply, _ = await pool.score(
                "codesearch", 1, asyncio.get_running_loop().time() + within_s, lambda loaded: request
            )
            return reply
        except RankingError as error:
            return error

    async def all_at_once() -> list[RankedReply | RankingError]:
        pool = ReplicaPool((address,))
        await pool.start()
        try:
            await pool.fleet.wait_for_holder("codesearch", 1, asyncio.get_running_loop().time() + PATIENCE_S)
            return await asyncio.gather(*(one(pool, request) for request in requests))
        finally:
            await pool.stop()

    return asyncio.run(all_at_once())


def test_a_remote_ranker_ranks_as_the_same_model_here(triton: TritonServer) -> None:
    random = np.random.default_rng(1)
    requests = [
        a_request(
            random.choice([f"item-{i}" for i in range(400)], size, replace=False).tolist(),
            {WORDS: float(random.normal())},
            {MATCH: random.normal(size=size).tolist()},
        )
        for size in (1, 20, 63, 64, 65, 200, 300)
    ]
    with a_replica(opened(triton)) as remote, a_replica(TorchProgram(a_package(), "cpu")) as local:
        there, here = ask(remote.address, *requests), ask(local.address, *requests)

    for theirs, ours in zip(there, here, strict=True):
        assert isinstance(theirs, RankedReply)
        assert isinstance(ours, RankedReply)
        np.testing.assert_array_equal(theirs.order, ours.order)
        np.testing.assert_allclose(theirs.scores, ours.scores, rtol=1e-6)


def test_a_listwise_model_sees_whole_lists_however_the_batch_is_cut(triton: TritonServer) -> None:
    inputs = (TensorSpec("features", "FP32", (-1, 3)), TensorSpec("query_index", "INT64", (-1, 1)))
    program = opened(triton, a_remote_manifest("listwise", inputs=inputs))
    random = np.random.default_rng(2)
    counts = [1, 40, 30, 64, 2, 3, 61, 1]
    features = random.normal(size=(sum(counts), 3)).astype(np.float32)

    scores = program.score(features, np.repeat(np.arange(len(counts)), counts))

    lists = np.split(features.sum(axis=1), np.cumsum(counts)[:-1])
    np.testing.assert_allclose(scores, np.concatenate([rows - rows.mean() for rows in lists]), atol=1e-5)
    with pytest.raises(QueryRefused, match="a list has more candidates than the 64 rows"):
        program.score(features, np.zeros(len(features), dtype=np.int64))


def test_tensors_of_every_datatype_come_back_as_they_went(triton: TritonServer) -> None:
    program = opened(triton, an_echo_manifest("echo", (-1, 2)))

    for rows in (1, 5):
        given = random_tensors(rows, seed=rows)
        back = program.run(given)
        assert [(one.name, one.datatype, one.shape) for one in back] == [
            (f"{one.name}_out", one.datatype, one.shape) for one in given
        ]
        assert [bytes(one.data) for one in back] == [bytes(one.data) for one in given]


def test_a_batch_larger_than_the_server_takes_goes_in_pieces(triton: TritonServer) -> None:
    given = random_tensors(11)

    back = opened(triton, an_echo_manifest("echo_rows", (-1, 2))).run(given)

    assert [bytes(one.data) for one in back] == [bytes(one.data) for one in given]
    assert {one.shape for one in back} == {(11, 2)}


def test_lists_are_never_cut_and_pieces_are_as_large_as_they_may_be() -> None:
    random = np.random.default_rng(3)
    for _ in range(200):
        counts = random.integers(1, 9, random.integers(1, 20))
        lists = np.repeat(np.arange(len(counts)), counts)
        bounds = piece_bounds(len(lists), 8, lists)

        assert bounds is not None
        assert [stop for _, stop in bounds[:-1]] == [start for start, _ in bounds[1:]]
        assert (bounds[0][0], bounds[-1][1]) == (0, len(lists))
        ends = set(np.cumsum(counts).tolist())
        for start, stop in bounds:
            assert 0 < stop - start <= 8
            assert stop in ends
        for start, stop in bounds[:-1]:
            assert min(end for end in ends if end > stop) - start > 8


def test_a_model_that_takes_too_long_is_given_up_at_the_time_limit(triton: TritonServer) -> None:
    program = opened(triton)
    slow = np.full((2, 3), 300, dtype=np.float32)

    with pytest.raises(DeadlineExceeded, match="Triton server 'gpu-a'"):
        program.score(slow, np.zeros(2, dtype=np.int64), timeout_s=0.2)  # it works for three seconds
    with pytest.raises(DeadlineExceeded, match="no time left"):
        program.score(slow, np.zeros(2, dtype=np.int64), timeout_s=0.0)


def test_a_worker_gives_a_batch_up_at_its_deadline(triton: TritonServer) -> None:
    slow = a_request(["item-1"], {WORDS: 1.0}, {MATCH: [300.0]}, deadline_us=500_000)
    with a_remote_replica(triton) as replica, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(PATIENCE_S)
        channel.connect(replica.address)
        channel.sendall(slow.encode())
        frames = FrameBuffer()
        replies: list[FailedReply] = []
        while not replies:
            received = frames.feed(channel.recv(1 << 16))
            replies += [FailedReply.decode(body) for kind, body in received if kind is Kind.FAILED]

    assert replies[0].status == 504
    assert "Triton server 'gpu-a'" in replies[0].message  # not the gateway, not the queue


REMOTE, NATIVE = 0, 1  # slots of a remote replica


def natives_answered(caller: Caller, count: int = 20) -> list[int]:
    """Asks the native version one query after another. Whose answers came meanwhile, by number."""
    came = []
    for number in range(count):
        caller.channel.sendall(a_request(["item-2"], number=number, slot=NATIVE).encode())
        came += [reply.number for reply in next_replies(caller, number)]
    return came


def next_replies(caller: Caller, until: int) -> list[RankedReply | FailedReply]:
    """Replies as they come, until the one to this number."""
    replies: list[RankedReply | FailedReply] = []
    while not replies or replies[-1].number != until:
        kind, body = caller.next()
        if kind in (Kind.RANKED, Kind.FAILED):
            replies.append(RankedReply.decode(body) if kind is Kind.RANKED else FailedReply.decode(body))
    return replies


def test_a_slow_server_keeps_no_native_version_waiting(triton: TritonServer) -> None:
    with a_remote_replica(triton) as replica, a_caller(replica.address) as caller:
        caller.told_of(1, 2)
        for number in (100, 101, 102):  # more than it is asked at a time
            caller.channel.sendall(a_slow_request(number).encode())
        came = natives_answered(caller)
        [last] = [reply for reply in next_replies(caller, 102) if reply.number == 102]

    assert came == list(range(20))  # none of them behind the server's three seconds
    assert isinstance(last, RankedReply)


def test_a_server_that_hangs_costs_nobody_but_its_own_queries(triton: TritonServer) -> None:
    with a_remote_replica(triton) as replica, a_caller(replica.address) as caller:
        caller.told_of(1, 2)
        assert triton.process is not None
        triton.process.send_signal(signal.SIGSTOP)
        try:
            for number, deadline_us in ((100, 3_000_000), (101, 3_000_000), (102, 1_500_000)):
                caller.channel.sendall(a_slow_request(number, deadline_us).encode())
                assert natives_answered(caller) == list(range(20))  # it has read that request, too
            replies = next_replies(caller, 102)
            while len(replies) < 3:
                kind, body = caller.next()
                replies += [FailedReply.decode(body)] if kind is Kind.FAILED else []
        finally:
            triton.process.send_signal(signal.SIGCONT)

    failed = {reply.number: reply for reply in replies if isinstance(reply, FailedReply)}
    assert {number: reply.status for number, reply in failed.items()} == {100: 504, 101: 504, 102: 504}
    assert "Triton server 'gpu-a'" in failed[100].message
    assert "the deadline passed in the worker's queue" in failed[102].message  # both calls were taken


def test_a_caller_who_leaves_a_remote_queue_is_told_so(triton: TritonServer) -> None:
    with a_remote_replica(triton) as replica, a_caller(replica.address) as caller:
        caller.told_of(1, 2)
        for number in (100, 101, 102):
            caller.channel.sendall(a_slow_request(number).encode())
            natives_answered(caller, 2)
        caller.channel.sendall(encode_cancel(102))
        [reply] = next_replies(caller, 102)

    assert isinstance(reply, FailedReply)
    assert reply.status == 499


def test_a_worker_that_stops_answers_what_its_server_still_works_on(triton: TritonServer) -> None:
    with a_remote_replica(triton) as replica, a_caller(replica.address) as caller:
        caller.told_of(1, 2)
        caller.channel.sendall(a_slow_request(100).encode())
        natives_answered(caller, 2)
        stopping = threading.Thread(target=replica.stop)
        stopping.start()
        [reply] = next_replies(caller, 100)
        stopping.join(PATIENCE_S)

    assert isinstance(reply, RankedReply)


def test_a_program_that_is_let_go_ends_its_calls_first_and_takes_no_more(triton: TritonServer) -> None:
    program = opened(triton)
    slow = np.full((2, 3), 300, dtype=np.float32)
    under_way = program.calls.submit(program.score, slow, np.zeros(2, dtype=np.int64))

    program.close()

    with pytest.raises(RuntimeError, match="after shutdown"):
        program.calls.submit(program.score, slow, np.zeros(2, dtype=np.int64))
    assert under_way.result(PATIENCE_S).tolist() == [900.0, 900.0]


def test_what_the_model_cannot_do_fails_alone_and_the_worker_goes_on(triton: TritonServer) -> None:
    fine = a_request(["item-1"], {WORDS: 1.0}, {MATCH: [2.0]})
    poison = a_request(["item-1"], {WORDS: 1.0}, {MATCH: [500.0]}, number=2)
    not_finite = a_request(["item-1"], {WORDS: 1.0}, {MATCH: [float("nan")]}, number=3)
    with a_remote_replica(triton) as replica:
        replies = ask(replica.address, fine, poison, not_finite)
        after = ask(replica.address, fine)

    assert isinstance(replies[0], RankedReply)
    assert isinstance(replies[1], RankingError)
    assert (replies[1].status, "poison" in str(replies[1])) == (500, True)
    assert isinstance(replies[2], RankingError)
    assert (replies[2].status, "not finite" in str(replies[2])) == (500, True)
    assert isinstance(after[0], RankedReply)


def test_a_server_that_is_gone_is_unavailable_and_one_that_is_back_answers(triton: TritonServer) -> None:
    request = a_request(["item-1"], {WORDS: 1.0}, {MATCH: [2.0]})
    with a_remote_replica(triton) as replica:
        before = ask(replica.address, request)
        triton.kill()
        while_away = ask(replica.address, request, request)
        triton.start()
        until_s = time.monotonic() + PATIENCE_S
        while not isinstance(after := ask(replica.address, request)[0], RankedReply):
            assert time.monotonic() < until_s, after
            time.sleep(0.02)

    assert isinstance(before[0], RankedReply)
    for failed in while_away:
        assert isinstance(failed, ReplicaUnhealthy)
        assert "SLUICE_TRITON_SERVERS" in str(failed)
    np.testing.assert_array_equal(after.scores, before[0].scores)


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        (a_remote_manifest(remote=RemoteModel("gpu-b", "ranker")), r"no Triton server named 'gpu-b' \(known: gpu-a\)"),
        (a_remote_manifest("nobody"), "model 'nobody' on server 'gpu-a' is not ready|nobody"),
        (a_remote_manifest(remote=RemoteModel("gpu-a", "ranker", "7")), "7"),
        (a_remote_manifest("streaming"), "decoupled"),
        (a_remote_manifest("stateful"), "keeps state between requests"),
        (
            a_remote_manifest(inputs=(TensorSpec("x", "FP32", (-1, 3)),)),
            r"input 'x' is not there \(there: features\).*register-remote",
        ),
        (
            a_remote_manifest(inputs=(TensorSpec("features", "FP64", (-1, 3)),)),
            "input 'features' is FP32 there and FP64 in the manifest",
        ),
        (
            a_remote_manifest(inputs=(TensorSpec("features", "FP32", (-1, -1)),)),
            r"input 'features' has shape \[-1, 3\] there and \[-1, -1\] in the manifest",
        ),
        (
            a_remote_manifest(outputs=(TensorSpec("scores", "FP32", (-1,)),)),
            r"output 'scores' has shape \[-1, 1\] there and \[-1\] in the manifest",
        ),
        (
            a_manifest(
                FeatureView("wider", "function", tuple(Column(name) for name in "abcd")),
                inputs=(TensorSpec("features", "FP32", (-1, 3)),),
                outputs=(TensorSpec("scores", "FP32", (-1, 1)),),
                remote=RemoteModel("gpu-a", "ranker"),
            ),
            "a ranker takes one float matrix of 4 columns",
        ),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_when_it_is_loaded(
    triton: TritonServer, manifest: ModelManifest, told: str
) -> None:
    with pytest.raises(RankingError, match=told) as refused:
        open_remote(manifest, {"gpu-a": triton.address})

    assert refused.value.status == 503


def test_a_model_that_changed_under_its_manifest_is_the_servers_fault(triton: TritonServer) -> None:
    then = a_remote_manifest(outputs=(TensorSpec("scores", "FP64", (-1, 1)),))
    connection, remote = TritonConnection("gpu-a", triton.address), RemoteModel("gpu-a", "ranker")
    program = TritonProgram(then, remote, read_signature(connection, remote), connection)

    with pytest.raises(RankingError, match=r"gave FP32 \[2, 1\] for output 'scores', expected FP64") as failed:
        program.score(np.zeros((2, 3), dtype=np.float32), np.zeros(2, dtype=np.int64))

    assert failed.value.status == 500


def test_a_server_that_is_not_there_is_told_with_its_address() -> None:
    with pytest.raises(ReplicaUnhealthy, match=r"'gpu-a' at 127\.0\.0\.1:1.*is it running"):
        open_remote(a_remote_manifest(), {"gpu-a": "127.0.0.1:1"})


def test_a_version_without_a_program_passes_the_registrys_checks() -> None:
    from registry.artefacts import verify
    from tests.builders import a_profile

    package = ModelPackage.of(b"", a_remote_manifest(), a_profile())

    assert verify(package, package.digest).remote == RemoteModel("gpu-a", "ranker")


def test_a_model_the_server_does_not_know_is_unfit_not_broken(triton: TritonServer) -> None:
    with pytest.raises(RemoteUnfit):
        opened(triton, a_remote_manifest("nobody"))
