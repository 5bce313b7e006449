"""What may be loaded: refused are damaged, mismatched and pickled versions; what is accepted runs."""

import copy
import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from registry.artefacts import read, strip_sample_inputs, verify, verify_program, write
from registry.contracts.manifest import PROFILE_FILE, PROGRAM_FILE, ModelPackage
from registry.errors import RefusedVersion
from tests.builders import a_manifest, a_package, a_profile, a_program, a_view

PREFIX = "archive"


def export(model: torch.nn.Module) -> bytes:
    """As torch writes it, sample inputs included."""
    archive = io.BytesIO()
    torch.export.save(torch.export.export(model, (torch.zeros(4, 3),)), archive)
    return archive.getvalue()


def rewritten(program: bytes, change: Callable[[str, bytes], bytes], **added: bytes) -> bytes:
    """The archive with the bytes of its entries changed and others added under `added` names."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as given_, zipfile.ZipFile(made, "w") as archive:
        for entry in given_.namelist():
            archive.writestr(entry, change(entry, given_.read(entry)))
        for name, content in added.items():
            archive.writestr(f"{PREFIX}/{name}", content)
    return made.getvalue()


def same(_name: str, content: bytes) -> bytes:
    return content


def test_a_sound_package_gives_its_manifest() -> None:
    package = a_package()

    assert verify(package, package.digest) == package.manifest


def test_another_digest_is_refused() -> None:
    with pytest.raises(RefusedVersion, match="changed or damaged, fetch it again"):
        verify(a_package(1.0), a_package(2.0).digest)


def test_another_feature_view_is_refused() -> None:
    package = ModelPackage.of(a_program(), a_manifest(view=a_view(), fingerprint="0" * 16), a_profile())

    with pytest.raises(RefusedVersion, match="the manifest says 0000000000000000"):
        verify(package, package.digest)


def test_a_profile_of_another_feature_view_is_refused() -> None:
    package = ModelPackage.of(a_program(), a_manifest(), a_profile(a_view("others")))

    with pytest.raises(RefusedVersion, match="fit the profile on the model's own view"):
        verify(package, package.digest)


@pytest.mark.parametrize("part", ["manifest_json", "profile_json"])
def test_a_record_that_is_none_is_refused(part: str) -> None:
    package = replace(a_package(), **{part: b"[]"})

    with pytest.raises(RefusedVersion, match="not a"):
        verify(package, package.digest)


def a_torch_save() -> bytes:
    file = io.BytesIO()
    torch.save(torch.nn.Linear(3, 1).state_dict(), file)
    return file.getvalue()


def an_old_torch_save() -> bytes:
    file = io.BytesIO()
    torch.save(torch.nn.Linear(3, 1).state_dict(), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def a_torchscript() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 1)), file)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, which is what is refused
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (a_torch_save, "a torch.save file"),
        (an_old_torch_save, "a plain pickle"),
        (a_torchscript, "a TorchScript archive"),
        (lambda: pickle.dumps({"weights": [1.0]}), "a plain pickle"),
        (lambda: b"", "no torch.export archive"),
        (lambda: b"PK\x05\x06" + bytes(18), "no torch.export archive"),
    ],
)
def test_other_formats_are_refused_with_the_lines_that_export_the_model(make: Callable[[], bytes], what: str) -> None:
    with pytest.raises(RefusedVersion) as refused:
        verify_program(make())

    first, *lines = str(refused.value).splitlines()
    assert first == f"the program is {what}: export it with"
    assert [line.strip().split("(")[0] for line in lines] == ["exported = torch.export.export", "torch.export.save"]


def test_sample_inputs_are_refused_until_they_are_stripped() -> None:
    program = export(torch.nn.Linear(3, 1))

    with pytest.raises(RefusedVersion, match="strip_sample_inputs"):
        verify_program(program)
    verify_program(strip_sample_inputs(program))


def test_a_stripped_program_scores_as_before_also_with_large_weights() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 200_000), torch.nn.ReLU(), torch.nn.Linear(200_000, 1))
    matrix = torch.rand(4, 3)
    stripped = strip_sample_inputs(export(model))

    loaded = torch.export.load(io.BytesIO(stripped)).module()
    assert torch.equal(loaded(matrix), model(matrix))
    assert strip_sample_inputs(stripped) == stripped


def test_stripping_keeps_entries_stored_and_aligned() -> None:
    stripped = strip_sample_inputs(export(torch.nn.Linear(3, 7)))
    with zipfile.ZipFile(io.BytesIO(stripped)) as archive:
        entries = archive.infolist()

    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    starts = [
        entry.header_offset + 30 + sum(np.frombuffer(stripped[entry.header_offset + 26 :][:4], dtype="<u2"))
        for entry in entries
    ]
    assert [int(start) % 64 for start in starts] == [0] * len(entries)


def test_stripping_what_is_no_archive_is_refused() -> None:
    with pytest.raises(RefusedVersion, match=r"no torch\.export archive"):
        strip_sample_inputs(pickle.dumps([]))


class Bomb:
    """Raises in whoever unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int, int], tuple[int, int]], tuple[int, int]]:
        return divmod, (1, 0)


def test_weights_that_torch_would_unpickle_are_refused() -> None:
    bomb = io.BytesIO()
    torch.save(Bomb(), bomb)

    def pickled(name: str, content: bytes) -> bytes:
        if name.endswith("weights/weight_0"):
            return bomb.getvalue()
        if not name.endswith("model_weights_config.json"):
            return content
        config = json.loads(content)
        for payload in config["config"].values():
            payload["use_pickle"] = True
        return json.dumps(config).encode()

    program = rewritten(a_program(), pickled)
    with pytest.raises(ZeroDivisionError):  # so the danger is real
        torch.export.load(io.BytesIO(program))
    with pytest.raises(RefusedVersion, match="as a pickle: make it a plain parameter or buffer"):
        verify_program(program)


@pytest.mark.parametrize("path", ["opaque_obj_0", "custom_obj_0", "../../data.pkl", "tensor_0/../weight_0"])
def test_constants_that_are_no_raw_tensors_are_refused(path: str) -> None:
    constant = {"path_name": path, "is_param": False, "use_pickle": False, "tensor_meta": None}

    def opaque(name: str, content: bytes) -> bytes:
        return json.dumps({"config": {"c": constant}}).encode() if "constants_config" in name else content

    with pytest.raises(RefusedVersion, match="'c' as a pickle"):
        verify_program(rewritten(a_program(), opaque))


@pytest.mark.parametrize(
    "name",
    [
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "data/aotinductor/model/wrapper.so",
        "data/sample_inputs/other.pt",
        "data/weights/weight_0.pkl",
        "data.pkl",
        "extra/notes.txt",
        "models/other.json",
    ],
)
def test_an_entry_outside_of_the_layout_is_refused(name: str) -> None:
    with pytest.raises(RefusedVersion, match="may be a pickle or machine code"):
        verify_program(rewritten(a_program(), same, **{name: b"x"}))


def change_archive(how: str) -> bytes:
    changed = io.BytesIO(a_program())
    with zipfile.ZipFile(changed, "a") as archive:
        if how == "an entry twice":
            archive.writestr(f"{PREFIX}/data/weights/weight_0", b"other")
        elif how == "another root":
            archive.writestr("other/data/weights/weight_9", b"other")
        elif how == "a comment":
            archive.comment = b"room for another directory"
        else:
            archive.writestr(f"{PREFIX}/data/weights/weight_9", bytes(1000), zipfile.ZIP_DEFLATED)
    return changed.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("how", ["an entry twice", "another root", "a comment", "a compressed entry"])
def test_an_archive_that_torch_does_not_write_so_is_refused(how: str) -> None:
    with pytest.raises(RefusedVersion):
        verify_program(change_archive(how))


def with_another_directory(shown: bytes, hidden: bytes) -> bytes:
    """An archive in which Python's zipfile finds `shown` and a reader that goes by the end record's offset, as torch's
    does, `hidden`, whose directory is of the same size."""
    (*_, entries, size, at, _), (*_, hidden_size, hidden_at, _) = (
        struct.unpack("<4s4H2LH", program[-22:]) for program in (shown, hidden)
    )
    assert size == hidden_size
    before = hidden[: hidden_at + size] + bytes(max(0, at - hidden_at))
    shift = len(before) + at - hidden_at  # by which zipfile takes everything to be moved
    directory, place = bytearray(shown[at : at + size]), 0
    while place < size:
        lengths = struct.unpack_from("<3H", directory, place + 28)
        (offset,) = struct.unpack_from("<L", directory, place + 42)
        struct.pack_into("<L", directory, place + 42, len(before) + offset - shift)
        place += 46 + sum(lengths)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, entries, entries, size, hidden_at, 0)
    return before + shown[:at] + bytes(directory) + end


def test_what_torch_would_read_is_what_was_looked_at() -> None:
    program = rewritten(a_program(), same)
    hidden = rewritten(program, lambda name, content: content[::-1] if name.endswith("weight_0") else content)
    two_faced = with_another_directory(program, hidden)
    with zipfile.ZipFile(io.BytesIO(two_faced)) as archive:
        seen = archive.read(f"{PREFIX}/data/weights/weight_0")
    loaded = torch._C.PyTorchFileReader(io.BytesIO(two_faced)).get_record("data/weights/weight_0")
    assert seen != loaded

    verify_program(program)
    verify_program(hidden)
    with pytest.raises(RefusedVersion, match="in more ways than one"):
        verify_program(two_faced)


END = struct.Struct("<4s4H2LH")


def with_wide_end(program: bytes, lie_bytes: int = 0) -> bytes:
    """The end of an archive of more than 2 GB, as zipfile writes it. lie_bytes: added to where the directory is."""
    end = END.unpack(program[-END.size :])
    count, size, start = end[4:7]
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start + lie_bytes)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(program) - END.size, 1)
    return program[: -END.size] + wide + locator + program[-END.size :]


def test_an_archive_with_the_end_of_a_large_one_is_taken_and_loads() -> None:
    program = with_wide_end(a_program())

    verify_program(program)
    assert torch.export.load(io.BytesIO(program)).module()(torch.ones(2, 3)).tolist() == [3.0, 3.0]


def in_directory(program: bytes, at: int, change: bytes) -> bytes:
    """With other bytes in the first entry of the directory."""
    start = END.unpack(program[-END.size :])[6] + at
    return program[:start] + change + program[start + len(change) :]


def in_end(program: bytes, at: int, change: bytes) -> bytes:
    start = len(program) - END.size + at
    return program[:start] + change + program[start + len(change) :]


@pytest.mark.parametrize(
    "change",
    [
        lambda program: b"x" + program,
        lambda program: program + b"x",
        lambda program: program[: -END.size] + b"x" + program[-END.size :],
        lambda program: in_end(program, 8, b"\1"),  # fewer entries on this disk
        lambda program: in_end(program, 16, b"\1"),  # the directory is elsewhere
        lambda program: with_wide_end(program, lie_bytes=1),
        lambda program: in_directory(program, 8, b"\x08"),  # the sizes follow the bytes
        lambda program: in_directory(program, 42, b"\1"),  # the header is elsewhere
        lambda program: program.replace(b"FB", b"up"),  # another field
        lambda program: program.replace(b"weights/weight_0", b"weights/weight_9", 1),  # in the header alone
        lambda program: b"PK\3\4" + bytes([20, 0, 1]) + program[7:],  # packed, says the header alone
    ],
)
def test_an_archive_that_leaves_readers_a_choice_is_refused(change: Callable[[bytes], bytes]) -> None:
    program = change(a_program())

    assert program != a_program()
    with pytest.raises(RefusedVersion):
        verify_program(program)


@pytest.mark.parametrize("config", [b"", b"[]", b'{"config": {"c": {}}}', b'{"config": {"c": 1}}', b'{"config": [1]}'])
def test_a_config_that_cannot_be_read_is_refused(config: bytes) -> None:
    with pytest.raises(RefusedVersion):
        verify_program(rewritten(a_program(), lambda name, content: config if "config" in name else content))


@given(at=st.integers(0, len(a_program()) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_never_does_worse_than_being_refused(at: int, byte: int) -> None:
    program = a_program()
    package = a_package()
    damaged = replace(package, program=program[:at] + bytes([byte]) + program[at + 1 :])

    if damaged == package:
        verify(damaged, package.digest)
    else:
        with pytest.raises(RefusedVersion, match="damaged"):
            verify(damaged, package.digest)
        with suppress(RefusedVersion):  # never anything else
            verify_program(damaged.program)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(a_package(), tmp_path / "codesearch" / "1")

    assert read(tmp_path / "codesearch" / "1") == a_package()
    assert [path.name for path in (tmp_path / "codesearch").iterdir()] == ["1"]


def test_writing_replaces_what_was_there(tmp_path: Path) -> None:
    write(a_package(1.0), tmp_path / "1")
    write(a_package(2.0), tmp_path / "1")

    assert read(tmp_path / "1") == a_package(2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write(a_package(1.0), tmp_path / "1")

    with pytest.raises(TypeError):
        write(replace(a_package(2.0), profile_json=None), tmp_path / "1")  # type: ignore[arg-type]
    assert read(tmp_path / "1") == a_package(1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("missing", [PROGRAM_FILE, PROFILE_FILE])
def test_a_folder_without_a_file_is_refused(tmp_path: Path, missing: str) -> None:
    write(a_package(), tmp_path / "1")
    (tmp_path / "1" / missing).unlink()

    with pytest.raises(RefusedVersion, match=f"holds no model version.*{missing}"):
        read(tmp_path / "1")


def swollen(entries: int, size_bytes: int, packing: int) -> bytes:
    """An archive of little bytes that says it holds a lot: packed, or the same bytes under many names."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", packing) as archive:
        archive.writestr(f"{PREFIX}/archive_format", bytes(size_bytes))
        first = archive.infolist()[0]
        for number in range(1, entries):
            again = copy.copy(first)
            again.filename = f"{PREFIX}/data/weights/weight_{number:010}"
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    return made.getvalue()


@pytest.mark.parametrize("read_program", [verify_program, strip_sample_inputs])
@pytest.mark.parametrize(
    ("program", "why"),
    [
        (swollen(1, 64 << 20, zipfile.ZIP_DEFLATED), "compressed"),
        (swollen(64, 1 << 20, zipfile.ZIP_STORED), "more than its bytes"),
    ],
)
def test_an_archive_that_is_larger_inside_is_refused_unread(
    read_program: Callable[[bytes], object], program: bytes, why: str
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RefusedVersion, match=why):
            read_program(program)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 1 << 20
