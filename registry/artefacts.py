"""A version's package: what may be loaded, and how it lies in a folder.

`torch.export.load` unpickles whatever an archive tells it to, so an archive is held against the
layout that `torch.export.save` writes (torch/export/pt2_archive, torch 2.13) before torch sees
it: raw weights, raw constants, JSON, and nothing else, in bytes that every reader of zip files
understands alike (`zip_layout`). The example inputs are the one pickle that every archive has;
`strip_sample_inputs` empties them.

This keeps pickles out. It is no sandbox: the graph itself names operators and sizes that torch
evaluates, so registering a version stays a right that is given to few.
"""

import errno
import io
import json
import os
import re
import shutil
import struct
import uuid
import zipfile
from contextlib import suppress
from pathlib import Path

from registry.contracts.errors import ContractError
from registry.contracts.manifest import (
    MANIFEST_FILE,
    PROFILE_FILE,
    PROGRAM_FILE,
    SIGNATURES_FILE,
    ModelManifest,
    ModelPackage,
)
from registry.errors import RefusedVersion
from registry.signatures import ANYBODY, TrustedKeys
from registry.zip_layout import reads_one_way

EXPORT_HINT = """export it with
  exported = torch.export.export(model, (features,), dynamic_shapes={"features": {0: torch.export.Dim("rows")}})
  torch.export.save(exported, "program.pt2")"""

_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_CONFIGS = {
    "data/weights/model_weights_config.json": re.compile(r"weight_\d+"),
    "data/constants/model_constants_config.json": re.compile(r"tensor_\d+"),
}
_RAW = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
_PLAIN = {
    *_CONFIGS,
    "models/model.json",
    "archive_format",
    "archive_version",
    "byteorder",
    ".data/version",
    ".data/serialization_id",
}
_ALIGNMENT_BYTES = 64  # torch's: weights can be mapped into memory where they lie


def verify(package: ModelPackage, digest: str, trusted: TrustedKeys = ANYBODY) -> ModelManifest:
    """The manifest of a package that may be stored or loaded.

    Raises RefusedVersion if the digest is another one, none of the trusted keys signed it, the feature view or the
    profile does not have the manifest's fingerprint, or the program is unsafe (see `verify_program`); a model that
    runs elsewhere has none.
    """
    if package.digest != digest:
        raise RefusedVersion(
            f"the package has digest {package.digest}, expected {digest}: it was changed or damaged, fetch it again"
        )
    trusted.check(digest, package.signatures_json)
    try:
        manifest, profile = package.manifest, package.profile
        if manifest.ranks:
            manifest.feature_view()
    except ContractError as error:
        raise RefusedVersion(str(error)) from error
    if profile.fingerprint != manifest.fingerprint:
        raise RefusedVersion(
            f"the reference profile is of feature view {profile.fingerprint}, the model of "
            f"{manifest.fingerprint}: fit the profile on the model's own view"
        )
    if manifest.remote is None:
        verify_program(package.program)
    elif package.program:
        raise RefusedVersion(f"the model runs on {manifest.remote.server!r}: expected an empty program beside it")
    return manifest


def verify_program(program: bytes) -> None:
    """Raises RefusedVersion unless the program is a torch.export archive without any pickle."""
    try:
        with zipfile.ZipFile(io.BytesIO(program)) as archive:
            _verify_archive(archive, program)
    except RefusedVersion:
        raise
    except Exception as error:  # whatever zipfile makes of garbage
        what = "a plain pickle" if program[:1] == b"\x80" else "no torch.export archive"
        raise RefusedVersion(f"the program is {what}: {EXPORT_HINT}") from error


def strip_sample_inputs(program: bytes) -> bytes:
    """The archive with its pickled example inputs emptied; it loads and runs as before.

    The entry stays, because torch asks for it. Raises RefusedVersion if this is no archive.
    """
    stripped = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(program)) as given, zipfile.ZipFile(stripped, "w") as made:
            _check_sizes(given, len(program))
            for entry in given.infolist():
                empty = entry.filename.partition("/")[2] == _SAMPLE_INPUTS
                made.writestr(_aligned(entry.filename, made), b"" if empty else given.read(entry))
    except RefusedVersion:
        raise
    except Exception as error:  # whatever zipfile makes of garbage
        raise RefusedVersion(f"the program is no torch.export archive: {EXPORT_HINT}") from error
    return stripped.getvalue()


def write(package: ModelPackage, folder: Path) -> None:
    """Puts the package into the folder, replacing what is there: all of it or nothing, and
    durable on return. Several processes may write at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    fresh.mkdir()
    try:
        for name, content in package.files().items():
            with open(fresh / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(fresh)
        _move(fresh, folder)
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def read(folder: Path) -> ModelPackage:
    """The package in the folder, unverified. Raises RefusedVersion if a file is missing."""
    try:
        program, manifest, profile = [
            (folder / name).read_bytes() for name in (PROGRAM_FILE, MANIFEST_FILE, PROFILE_FILE)
        ]
    except OSError as error:
        raise RefusedVersion(f"{folder} holds no model version ({error.strerror}: {error.filename})") from error
    try:
        signatures = (folder / SIGNATURES_FILE).read_bytes()
    except OSError:  # none, or none that can be read: whoever asks for one refuses the version
        signatures = b""
    return ModelPackage(program, manifest, profile, signatures)


def _check_sizes(archive: zipfile.ZipFile, size_bytes: int) -> None:
    """Before a byte of an entry is read: torch packs nothing, so that all entries together are no more than the
    file. What is packed, or lies in one place under many names, could be any number of times as much."""
    entries = archive.infolist()
    packed = [one.filename for one in entries if one.compress_type != zipfile.ZIP_STORED]
    if packed or sum(one.file_size for one in entries) > size_bytes:
        what = f"holds {packed[0]!r} compressed" if packed else "holds more than its bytes"
        raise RefusedVersion(f"the program {what}, which torch.export does not do: {EXPORT_HINT}")


def _verify_archive(archive: zipfile.ZipFile, program: bytes) -> None:
    names = [name.partition("/")[2] for name in archive.namelist()]
    if "archive_format" not in names:
        raise RefusedVersion(f"the program is {_what_else(names)}: {EXPORT_HINT}")
    _check_sizes(archive, len(program))
    if archive.read(archive.namelist()[names.index("archive_format")]) != b"pt2":
        raise RefusedVersion(f"the program is {_what_else(names)}: {EXPORT_HINT}")
    root, *others = {name.partition("/")[0] for name in archive.namelist()}
    # what torch's zip reader and Python's could understand differently is not torch.export's
    if others or len(set(names)) < len(names) or archive.comment:
        raise RefusedVersion(f"the program is not as torch.export wrote it: {EXPORT_HINT}")
    for entry, name in zip(archive.infolist(), names, strict=True):
        if name == _SAMPLE_INPUTS and entry.file_size == 0:
            continue
        if name == _SAMPLE_INPUTS:
            raise RefusedVersion(
                "the program holds its sample inputs as a pickle: pass it through "
                "registry.artefacts.strip_sample_inputs before registering it"
            )
        if not (name in _PLAIN or _RAW.fullmatch(name)):
            raise RefusedVersion(f"the program holds {name!r}, which may be a pickle or machine code: {EXPORT_HINT}")
    for config, allowed in _CONFIGS.items():
        _verify_config(archive.read(f"{root}/{config}"), allowed)
    # last: an archive that torch wrote itself is told above what to do first, and `strip_sample_inputs` writes it anew
    if not reads_one_way(program, archive):
        raise RefusedVersion(f"the program can be read in more ways than one: {EXPORT_HINT}")


def _verify_config(raw: bytes, allowed: re.Pattern[str]) -> None:
    """A config says of each tensor in which entry it lies and whether torch shall unpickle that."""
    pickled = [
        tensor
        for tensor, payload in json.loads(raw)["config"].items()
        if payload["use_pickle"] is not False or not allowed.fullmatch(payload["path_name"])
    ]
    if pickled:
        raise RefusedVersion(
            f"the program holds {pickled[0]!r} as a pickle: make it a plain parameter or buffer, then {EXPORT_HINT}"
        )


def _what_else(names: list[str]) -> str:
    if "constants.pkl" in names:
        return "a TorchScript archive"
    return "a torch.save file" if "data.pkl" in names else "no torch.export archive"


def _aligned(filename: str, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """An entry whose bytes will start at a multiple of the alignment, as torch pads it."""
    assert archive.fp is not None  # open for writing
    entry = zipfile.ZipInfo(filename)
    before = archive.fp.tell() + 30 + len(filename.encode()) + 4  # local header, name, head of the padding
    padding = -before % _ALIGNMENT_BYTES
    entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    return entry


def _move(fresh: Path, folder: Path) -> None:
    old = fresh.with_name(f"{fresh.name}-old")
    while True:
        try:
            fresh.rename(folder)  # only over nothing, or over an empty folder
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with suppress(FileNotFoundError):  # another process moved it away first
            folder.rename(old)
            shutil.rmtree(old)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
