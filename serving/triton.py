"""A model that a remote Triton server runs, as a `serving.program.Program`.

Tensors leave as they came: raw bytes of their datatypes. A batch larger than the server takes at
once goes in pieces, several under way at a time; a piece never ends inside a query's list, so a
listwise model sees whole lists. What the server does wrong becomes a reply, never an exception
that the worker does not know.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from registry.contracts.manifest import ModelManifest, RemoteModel
from serving.elsewhere import CALLS
from serving.errors import QueryRefused, RankingError, RemoteUnfit
from serving.tensor_rows import joined_rows, slice_rows
from serving.tensors import DTYPES, Tensor, check_tensor
from serving.triton_connection import TritonConnection
from serving.triton_signature import (
    QUERY_INDEX,
    Signature,
    check_signature,
    features_input,
    read_signature,
    scores_place,
)


def open_remote(manifest: ModelManifest, servers: Mapping[str, str]) -> "TritonProgram":
    """The program of a version that runs elsewhere. servers: addresses (host:port, gRPC) by name.

    Raises RemoteUnfit if the server is not in the settings, or its model is not ready or not what
    the manifest says; ReplicaUnhealthy if the server is away.
    """
    remote = manifest.remote
    if remote is None:
        raise RemoteUnfit(f"version {manifest.model!r} runs here: its manifest names no remote model")
    connection = TritonConnection(remote.server, address_of(remote.server, servers))
    try:
        signature = read_signature(connection, remote)
        check_signature(manifest, remote, signature)
    except BaseException:
        connection.close()
        raise
    return TritonProgram(manifest, remote, signature, connection)


def address_of(server: str, servers: Mapping[str, str]) -> str:
    """Where the server is. Raises RemoteUnfit if the settings do not say."""
    if server not in servers:
        known = ", ".join(sorted(servers)) or "none"
        raise RemoteUnfit(
            f"no Triton server named {server!r} (known: {known}): "
            f"add it to SLUICE_TRITON_SERVERS, as {server}=host:port of its gRPC front end"
        )
    return servers[server]


class TritonProgram:
    """See `serving.program.Program`; made by `open_remote`.

    platform: in the protocol's words, what runs the model over there. calls: threads that may ask, so
    that a slow server keeps nobody else waiting.
    """

    def __init__(
        self, manifest: ModelManifest, remote: RemoteModel, signature: Signature, connection: TritonConnection
    ) -> None:
        self._manifest, self._remote, self._connection = manifest, remote, connection
        self._signature = signature
        self._outputs = {spec.name: spec for spec in manifest.outputs}
        self._named = f"model {remote.model!r} on server {remote.server!r}"
        self.platform = f"triton_{signature.platform}"
        self.calls = ThreadPoolExecutor(CALLS, thread_name_prefix=f"triton-{remote.model}")
        if manifest.ranks:
            self._features = features_input(manifest)
            self._score_place = scores_place(manifest)

    def close(self) -> None:
        """Takes no more calls; ends the connections when those under way have ended. Returns at once."""
        self.calls.shutdown(wait=False)
        threading.Thread(target=self._close, name=f"close {self._named}", daemon=True).start()

    def _close(self) -> None:
        self.calls.shutdown(wait=True)
        self._connection.close()

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """See `Program`. Raises as `run`."""
        matrix = features.astype(DTYPES[self._features.datatype], copy=False)
        inputs = []
        for spec in self._manifest.inputs:
            if spec.name == QUERY_INDEX:  # some servers know no dimension but rows and one more
                lists = query_index.reshape(-1, *[1] * (len(spec.shape) - 1))
                inputs.append(Tensor.of(spec.name, spec.datatype, lists))
            else:
                inputs.append(Tensor.of(spec.name, spec.datatype, matrix))
        scores = self.run(inputs, timeout_s)[self._score_place].array().reshape(-1).astype(np.float32)
        if len(scores) != len(features):
            raise RankingError(f"{self._named} gave {len(scores)} scores for {len(features)} rows")
        return scores

    def run(self, inputs: Sequence[Tensor], timeout_s: float | None = None) -> list[Tensor]:
        """See `Program`. Raises RankingError: 400 if the server refuses the tensors or a list has
        more rows than it takes at once, 503 if it is away, 504 in `timeout_s`, 500 if it failed or its
        answer does not fit the manifest."""
        pieces = self._pieces(inputs)
        answers = self._connection.infer([self._request(piece) for piece in pieces], timeout_s)
        parts = [self._tensors(answer) for answer in answers]
        if len(parts) == 1:
            return parts[0]
        rows = [piece[0].shape[0] for piece in pieces]
        return [self._joined(of_one, rows) for of_one in zip(*parts, strict=True)]

    def _joined(self, parts: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
        if [part.shape[:1] for part in parts] != [(count,) for count in rows] or len(
            {part.shape[1:] for part in parts}
        ) > 1:
            shapes = [list(part.shape) for part in parts]
            raise RankingError(f"{self._named} gave {parts[0].name!r} of shapes {shapes} for pieces of {rows} rows")
        return joined_rows(parts)

    def _pieces(self, inputs: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        rows = inputs[0].shape[0] if inputs and inputs[0].shape else 0
        if not self._signature.max_rows or rows <= self._signature.max_rows:
            return [inputs]
        index = next((tensor for tensor in inputs if tensor.name == QUERY_INDEX), None)
        lists = None if index is None else index.array().reshape(-1)
        bounds = piece_bounds(rows, self._signature.max_rows, lists)
        if bounds is None:
            raise QueryRefused(
                f"a list has more candidates than the {self._signature.max_rows} rows that {self._named} "
                "takes at once: send fewer, or raise max_batch_size there"
            )
        return [[slice_rows(tensor, start, stop) for tensor in inputs] for start, stop in bounds]

    def _request(self, inputs: Sequence[Tensor]) -> Any:
        request = service_pb2.ModelInferRequest(model_name=self._remote.model, model_version=self._remote.version)
        for tensor in inputs:
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            request.raw_input_contents.append(bytes(tensor.data))
        for name in self._outputs:
            request.outputs.add(name=name)
        return request

    def _tensors(self, answer: Any) -> list[Tensor]:
        """The answer's tensors in the manifest's order, each what it says it is."""
        given = {
            one.name: Tensor(one.name, one.datatype, tuple(one.shape), raw)
            for one, raw in zip(answer.outputs, answer.raw_output_contents, strict=False)
        }
        tensors = []
        for name, spec in self._outputs.items():
            tensor = given.get(name)
            if tensor is None or tensor.datatype != spec.datatype or len(tensor.shape) != len(spec.shape):
                said = "nothing" if tensor is None else f"{tensor.datatype} {list(tensor.shape)}"
                raise RankingError(
                    f"{self._named} gave {said} for output {name!r}, expected {spec.datatype} {list(spec.shape)}"
                )
            try:
                check_tensor(tensor)
            except QueryRefused as broken:  # not the caller's fault
                raise RankingError(f"{self._named}: {broken}") from broken
            tensors.append(tensor)
        return tensors


def piece_bounds(rows: int, limit: int, lists: NDArray[np.int64] | None) -> list[tuple[int, int]] | None:
    """Where to cut so many rows into pieces of at most `limit`: (start, stop), as few as can be.

    lists: ascending numbers (rows,) of the lists that rows belong to, which are not cut; None: cut
    anywhere. Returns None if a list alone has more rows than the limit.

    >>> piece_bounds(5, 2, None), piece_bounds(5, 3, np.array([0, 0, 1, 1, 2]))
    ([(0, 2), (2, 4), (4, 5)], [(0, 2), (2, 5)])
    """
    if lists is None:
        return [(start, min(start + limit, rows)) for start in range(0, rows, limit)]
    ends = [*(np.flatnonzero(np.diff(lists)) + 1).tolist(), rows]
    bounds, start, stop = [], 0, 0
    for end in ends:
        if end - start > limit:
            if stop == start or end - stop > limit:
                return None
            bounds.append((start, stop))
            start = stop
        stop = end
    return [*bounds, (start, stop)]
