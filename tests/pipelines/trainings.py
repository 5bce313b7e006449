"""Trainings in processes of their own, to be killed or to work together."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from pipelines.dataset import DatasetSplits
from pipelines.settings import TrainSettings
from pipelines.training.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0
LOOK_S = 0.02
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def begun(
    folder: Path, settings: TrainSettings, checkpoint: Path, starter: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """`deploy.training.train_ranks` on splits saved in the folder. starter: what runs it instead of Python itself."""
    how = msgspec.json.encode(settings).decode()
    argv = [
        sys.executable,
        *starter,
        "-m",
        "deploy.training.train_ranks",
        str(folder),
        str(checkpoint),
        "--settings",
        how,
    ]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(process: subprocess.Popen[bytes]) -> str:
    """What it printed. It must end well."""
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said.decode()
    return said.decode()


def killed_after(process: subprocess.Popen[bytes], checkpoint: Path, epochs: int) -> int:
    """Kill -9 as soon as the checkpoint holds so many epochs. Returns how many it holds then."""
    until_s = time.monotonic() + DEADLINE_S
    while epochs_in(checkpoint) < epochs:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
            raise AssertionError(process.communicate()[0].decode())
        assert time.monotonic() < until_s
    process.kill()
    process.communicate()
    return epochs_in(checkpoint)


def epochs_in(checkpoint: Path) -> int:
    """0 if there is none."""
    try:
        return len(Checkpoint.decode(checkpoint.read_bytes()).told["epochs"])
    except (FileNotFoundError, ValueError):
        return 0


def saved(splits: DatasetSplits, folder: Path) -> Path:
    """The folder, with the splits in it."""
    folder.mkdir(parents=True, exist_ok=True)
    splits.save(folder)
    return folder
