"""Records that other processes wrote: into Redis, SQL, the event stream, the artefact store."""

import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from registry.artefacts import strip_sample_inputs, verify, verify_program
from registry.contracts.counters import CounterSnapshot
from registry.contracts.drift import Rebaseline, ShiftRecord
from registry.contracts.errors import ContractError, CorruptRecord, InvalidName
from registry.contracts.events import (
    decode_event,
    decode_events,
    encode_event,
    join_events,
    split_events,
    split_mirrors,
)
from registry.contracts.features import Column, FeatureView, missing_columns, pack_rows, unpack_rows
from registry.contracts.ids import RankingIds, check_id, hash64, hashes_of, join_ids, model_name, model_tag
from registry.contracts.manifest import ModelManifest, ModelPackage, RemoteModel
from registry.contracts.profile import ReferenceProfile, no_profile
from registry.contracts.replicas import ReplicaRecord
from registry.contracts.rollouts import Evidence, Rollout, RolloutChange, RolloutSpec
from registry.contracts.runs import Run
from registry.contracts.traffic import Override, TrafficPlan
from registry.errors import RefusedVersion
from registry.mlflow_foreign import _rows as _example_rows
from registry.mlflow_foreign import _signature
from registry.rollout_moves import start
from tests.builders import (
    NOW_MS,
    a_click,
    a_manifest,
    a_mirror,
    a_plan,
    a_profile,
    a_program,
    a_ranking,
    a_replica_record,
    a_run,
    a_shift_alarm,
    a_shift_record,
    a_spec,
    a_stored,
    a_tested_plan,
    a_view,
    an_arm,
    an_exposure,
    some_evidence,
)
from tests.fuzz.target import READ, Target, pure, reads, record, refusal

NAMES = "\n".join(f"{'é漢x😀'[i % 4] * (i % 80)}{i}" for i in range(90)).encode()
IDS = RankingIds(b"a secret of sixteen or more bytes", random.Random(0))
VIEWS = (
    a_view(),
    FeatureView(
        "narrow",
        "thing",
        (Column("a", dtype="float16"), Column("b", dtype="int16"), Column("c", dtype="uint8"), Column("d")),
    ),
)


def _rollout() -> Rollout:
    return start(a_plan(), a_stored(), a_spec(), who="ann", why="better", now_ms=NOW_MS).moves[0].rollout


def _json_record(name: str, kind: Any, seeds: Callable[[], list[Any]]) -> Target:
    """A contract with `decode` and `encode`, in JSON."""
    check = record(kind.decode, lambda found: found.encode(), ContractError)
    return pure(f"contracts.{name}", check, lambda: [one.encode() for one in seeds()], "json")


def _plan_and_its_routing(data: bytes) -> str:
    """A plan that is read routes every unit, to a version that it names."""
    try:
        plan = TrafficPlan.decode(data)
    except ContractError as error:
        return refusal(error)
    assert TrafficPlan.decode(plan.encode()).encode() == plan.encode()
    versions = plan.versions()
    for unit in ("", "u1", "ä"):
        assert plan.assign(unit).version in versions
    return READ


def _view_of_json(data: bytes) -> str:
    """A view of a manifest, and rows in its layout."""
    try:
        plain = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "no JSON"
    try:
        view = FeatureView.from_json(plain)
    except ContractError as error:
        return refusal(error)
    again = FeatureView.from_json(msgspec.json.decode(msgspec.json.encode(view.to_json())))
    assert again == view
    assert again.fingerprint == view.fingerprint
    stored = view.of_source("row")
    if stored and len(stored) < 50:
        rows = pack_rows(view, np.full((2, len(stored)), np.nan, np.float32), 7)
        assert unpack_rows(view, rows).updated_ms.tolist() == [7, 7]
    return READ


def _view_seeds() -> list[bytes]:
    return [msgspec.json.encode(view.to_json()) for view in VIEWS]


def _rows(data: bytes) -> str:
    """The first byte says which view and how many rows the rest is cut into."""
    if not data:
        return "nothing"
    view, count, raw = VIEWS[data[0] & 1], 1 + (data[0] >> 1) % 4, data[1:]
    cut = -(-len(raw) // count)
    rows = [raw[at : at + cut] for at in range(0, len(raw), cut)] if cut else [b""]
    try:
        found = unpack_rows(view, rows)
    except CorruptRecord as error:
        return refusal(error)
    assert found.values.shape == (len(rows), len(view.of_source("row")))
    if found.missing is not None:
        assert missing_columns(found.missing, found.values.shape[1]).shape == found.values.shape
    return READ


def _row_seeds() -> list[bytes]:
    seeds = []
    for place, view in enumerate(VIEWS):
        values = np.ones((2, len(view.of_source("row"))), np.float32)
        seeds.append(bytes([place]) + pack_rows(view, values, NOW_MS)[0])
        seeds.append(bytes([place | 2]) + b"".join(pack_rows(view, values, NOW_MS)))
        values[:, 0] = np.nan
        seeds.append(bytes([place | 2]) + b"".join(pack_rows(view, values, NOW_MS)))
    return seeds


def _events(data: bytes) -> str:
    """Together or apart, the same events are read, and each comes back from its own encoding."""
    try:
        apart = split_events(data)
    except ContractError as error:
        split_refused = refusal(error)
        try:
            decode_events(data)
        except ContractError:
            return split_refused
        raise AssertionError("read as events, but not split into them") from error
    split_mirrors(data)
    came: list[str] = []
    for encoded in apart:
        try:
            event = decode_event(encoded)
        except ContractError as error:
            came.append(refusal(error))
            continue
        written = encode_event(event)
        assert encode_event(decode_event(written)) == written
    if not came:
        assert len(decode_events(data)) == len(apart)
        assert len(decode_events(join_events(apart))) == len(apart)
    return came[0] if came else READ


def _event_seeds() -> list[bytes]:
    events = [a_ranking(), a_click(position=1), an_exposure(), a_mirror(), a_ranking("r2", ("a",), teams=b"\x01")]
    return [join_events([encode_event(one) for one in events]), *(join_events([encode_event(one)]) for one in events)]


def _names(data: bytes) -> str:
    """Names and ids as requests, files and streams bring them."""
    text = data.decode("utf-8", "surrogateescape")
    for check in (model_name, lambda given: check_id("item", given)):
        try:
            assert check(text) == text
            text.encode()
        except InvalidName as error:
            refusal(error)
    keys = data.split(b"\x00")
    assert hashes_of(data, len(keys)).tolist() == [hash64(key) for key in keys]
    if (joined := join_ids(names := text.splitlines())) is not None:
        assert len({check_id("item", name) for name in names}) == len(names), "an id was taken twice"
        assert joined[0] == "\x00".join(names).encode()
        assert joined[1].tolist() == [hash64(name) for name in names]
    try:
        issued = IDS.recognise(text)
    except InvalidName as error:
        return refusal(error)
    assert issued.model_tag == model_tag("codesearch"), "a ranking id that nobody issued was recognised"
    return READ


def _program(data: bytes) -> str:
    try:
        verify_program(data)
    except RefusedVersion as error:
        return refusal(error)
    return READ


def _stripped(data: bytes) -> str:
    """What is left of an archive that was stripped is refused or accepted like any other."""
    try:
        stripped = strip_sample_inputs(data)
    except RefusedVersion as error:
        return refusal(error)
    return _program(stripped)


def _package(data: bytes) -> str:
    """A manifest, a NUL and a profile, beside a program."""
    manifest, _, profile = data.partition(b"\x00")
    package = ModelPackage(b"", manifest, profile)
    try:
        verify(package, package.digest)
    except RefusedVersion as error:
        return refusal(error)
    return READ


def _foreign(data: bytes) -> str:
    """What lies beside a program that others logged with MLflow."""
    assert all(isinstance(value, float) for row in _example_rows(data) for value in row)
    try:
        _signature(data)
    except RefusedVersion as error:
        return refusal(error)
    return READ


def _small_program() -> bytes:
    return a_program(1.0, False, 3)


def _foreign_seeds() -> list[bytes]:
    tensors = '[{"type": "tensor", "name": "x", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}]'
    return [
        json.dumps({"inputs": [[1.0, 2.0], [3, 4]]}).encode(),
        json.dumps({"inputs": {"x": [[1.0, 2.0]]}}).encode(),
        json.dumps({"signature": {"inputs": tensors, "outputs": tensors}}).encode(),
        f"signature:\n  inputs: '{tensors}'\n  outputs: '{tensors}'\n".encode(),
    ]


def targets() -> list[Target]:
    """Contracts and packages."""
    rollout = _rollout
    return [
        pure(
            "contracts.traffic_plan",
            _plan_and_its_routing,
            lambda: [a_plan().encode(), a_tested_plan(overrides=(Override("t", 1, f"{1:064x}"),)).encode()],
            "json",
        ),
        _json_record("manifest", ModelManifest, lambda: [a_manifest()]),
        _json_record("profile", ReferenceProfile, lambda: [a_profile(), no_profile()]),
        _json_record("counters", CounterSnapshot, lambda: [CounterSnapshot("g:1:2", 3, (an_arm(answered=4),))]),
        _json_record("replica", ReplicaRecord, lambda: [a_replica_record()]),
        _json_record("shift_record", ShiftRecord, lambda: [a_shift_record(alarms=(a_shift_alarm(),))]),
        _json_record("rebaseline", Rebaseline, lambda: [Rebaseline("codesearch", NOW_MS, "ann", "new pipeline")]),
        _json_record("run", Run, lambda: [a_run()]),
        _json_record("rollout", Rollout, lambda: [rollout()]),
        pure(
            "contracts.rollout_spec",
            reads(RolloutSpec.decode, ContractError),
            lambda: [msgspec.json.encode(a_spec())],
            "json",
        ),
        _json_record(
            "rollout_change", RolloutChange, lambda: [RolloutChange(rollout(), "started", NOW_MS, "ann", "why", 2)]
        ),
        _json_record("evidence", Evidence, lambda: [some_evidence(rollout(), "offline_gate")]),
        pure(
            "contracts.feature_view", _view_of_json, lambda: [msgspec.json.encode(v.to_json()) for v in VIEWS], "json"
        ),
        pure("contracts.rows", _rows, _row_seeds),
        pure("contracts.events", _events, _event_seeds, "msgpack", 2.0),
        pure(
            "contracts.names",
            _names,
            lambda: [IDS.issue(model_tag("codesearch"), NOW_MS).encode(), b"codesearch", b"a\x00b", NAMES],
            "lines",
        ),
        pure("registry.program", _program, lambda: [_small_program()], "zip", 0.1),
        pure("registry.stripped_program", _stripped, lambda: [_small_program()], "zip", 0.05),
        pure(
            "registry.package",
            _package,
            lambda: [
                a_manifest(remote=RemoteModel("ranking", "theirs")).encode() + b"\x00" + a_profile().encode(),
                a_manifest().encode() + b"\x00" + a_profile().encode(),
            ],
            share=0.5,
        ),
        pure("registry.foreign_model", _foreign, _foreign_seeds, "json", 0.1),
    ]
