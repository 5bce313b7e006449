"""The map of rooms: who may import whom, checked over every import statement."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    "registry": frozenset[str](),
    "serving": frozenset({"registry"}),
    "drift": frozenset({"registry"}),
    "pipelines": frozenset({"registry"}),
    "deploy": frozenset({"registry", "serving", "drift", "pipelines"}),
}
WORKSHOPS = ("serving", "drift", "pipelines")
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "misc"}
TORCH_MAY_STAND_IN = {
    "serving/program.py",
    "serving/program_signature.py",
    "serving/footprint.py",
    "serving/device/compiled.py",
    "serving/device/graphs.py",
    "serving/device/lists.py",
    "serving/device/ranker.py",
    "serving/device/staging.py",
    "serving/device/streams.py",
    "serving/features/device.py",
    "serving/device/flat.py",
    "serving/device/nvml.py",
    "serving/device/opening.py",
    "serving/device/precision.py",
    "serving/device/tensors.py",
    "pipelines/training/checkpoint.py",
    "pipelines/training/fit.py",
    "pipelines/training/losses.py",
    "pipelines/training/ragged.py",
    "pipelines/training/ranker.py",
    "pipelines/training/ranks.py",
    "pipelines/training/train.py",
    "pipelines/training/lists.py",
    "pipelines/training/export.py",
    "deploy/capacity/measuring.py",
    "deploy/training/train_ranks.py",
    "deploy/worker/process.py",
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that the file names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_floors_below(room: str) -> None:
    others = ROOMS.keys() - {room} - ROOMS[room]
    wrong = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(room)
        for module in imported_modules(path)
        if module.split(".")[0] in others
    }

    assert not wrong


def test_every_contract_is_between_two_rooms() -> None:
    """Workshops, or a workshop and the floor's own stores: `traffic` is written by the one and
    followed by the other until pipelines move traffic too."""
    users: dict[str, set[str]] = {}
    for room in (*WORKSHOPS, "registry"):
        for path in sources(room):
            if path.parent.name != "contracts":
                for module in imported_modules(path):
                    users.setdefault(module, set()).add(room)
    contracts = [path.stem for path in sources("registry/contracts") if path.stem != "__init__"]

    lonely = {name: users.get(f"registry.contracts.{name}", set()) for name in contracts}

    assert not {name: sorted(by) for name, by in lonely.items() if len(by) < 2 or not by & set(WORKSHOPS)}


def test_contracts_do_no_io_and_know_no_torch() -> None:
    heavy = {"torch", "mlflow", "redis", "sqlalchemy", "pyarrow", "socket", "os", "pathlib", "subprocess"}
    found = {
        (path.name, module)
        for path in sources("registry/contracts")
        for module in imported_modules(path)
        if module.split(".")[0] in heavy
    }

    assert not found


def test_torch_stands_in_few_files() -> None:
    found = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in sources(room)
        if any(module.split(".")[0] == "torch" for module in imported_modules(path))
    }

    assert found <= TORCH_MAY_STAND_IN


def test_no_room_has_a_drawer_for_everything() -> None:
    named = {path.stem for room in ROOMS for path in sources(room)} | {
        part for room in ROOMS for path in sources(room) for part in path.relative_to(ROOT).parts[:-1]
    }

    assert not named & FORBIDDEN_NAMES


@pytest.mark.parametrize(
    "module", ["deploy.gateway.process", "deploy.gateway.grpc_server", "deploy.cli", "deploy.process"]
)
def test_the_gateway_and_the_command_line_load_neither_torch_nor_mlflow(module: str) -> None:
    heavy = {"torch", "mlflow", "pandas", "scipy", "tritonclient", "grpc"}
    program = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"

    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert loaded.stdout.split() == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_door_sign(room: str) -> None:
    sign = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))

    assert sign
    assert "import" in sign
