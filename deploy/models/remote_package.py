"""The package of a version that a Triton server runs, made from what the server says of its model."""

from collections.abc import Mapping

import msgspec

from registry.contracts.features import FeatureView
from registry.contracts.manifest import JUDGED_NDCG, Lineage, ModelManifest, ModelPackage, RemoteModel
from registry.contracts.profile import no_profile


def remote_package(
    model: str, remote: RemoteModel, servers: Mapping[str, str], view: FeatureView | None, now_ms: int
) -> ModelPackage:
    """The version as it would be registered. servers: addresses (host:port, gRPC) by name.

    view: what a ranker sees of a candidate, its columns the model's; None: the model takes tensors
    only. Raises RemoteUnfit if the server is not in the settings or its model is not ready or does
    not fit the view, ReplicaUnhealthy if the server is away.
    """
    from serving.triton import address_of
    from serving.triton_connection import TritonConnection
    from serving.triton_signature import check_signature, read_signature

    connection = TritonConnection(remote.server, address_of(remote.server, servers))
    try:
        signature = read_signature(connection, remote)
    finally:
        connection.close()
    manifest = ModelManifest(
        model=model,
        inputs=signature.inputs,
        outputs=signature.outputs,
        view=view.to_json() if view else {},
        fingerprint=view.fingerprint if view else "",
        metric=JUDGED_NDCG,
        metrics={},
        lineage=Lineage(dataset=f"unknown: {remote.model!r} on Triton server {remote.server!r}", dataset_digest=""),
        created_ms=now_ms,
        batchable=signature.max_rows > 0,
        remote=remote,
    )
    check_signature(manifest, remote, signature)
    # nobody has what it was trained on: its drift is `errored`, as nothing can be compared
    profile = msgspec.structs.replace(
        no_profile(), fingerprint=manifest.fingerprint, population="none: the model was trained elsewhere"
    )
    return ModelPackage.of(b"", manifest, profile)
