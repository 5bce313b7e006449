"""`torchrun --nproc-per-node N -m deploy.training.train_ranks …`: one training by several processes, GPUs in turn.

Without torchrun, `python -m deploy.training.train_ranks …` is the same training by one process. What comes of it is the
checkpoint: `train` called with the same arguments takes the finished model from there. Killed, and started
again, it goes on after the last epoch.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch
from torch import distributed

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import PipelineError
from pipelines.settings import TrainSettings
from pipelines.training.export import weights_of
from pipelines.training.ranks import Ranks
from pipelines.training.train import train
from registry.artefacts import read, verify
from registry.contracts.manifest import MetricDefinition
from registry.errors import RegistryError


@contextmanager
def group(device: str) -> Iterator[Ranks]:
    """The process group that torchrun started this process for; this process alone if it did not."""
    if not distributed.is_torchelastic_launched():
        yield Ranks()
        return
    on_gpus = device != "cpu" and torch.cuda.is_available()
    distributed.init_process_group("nccl" if on_gpus else "gloo")
    try:
        ranks = Ranks.joined()
        if on_gpus:
            torch.cuda.set_device(ranks.device(device))
        yield ranks
    finally:
        distributed.destroy_process_group()


def main(arguments: list[str]) -> int:
    """Returns the exit code: 2 if the data or the settings are refused."""
    parser = argparse.ArgumentParser(prog="deploy.training.train_ranks", description=__doc__)
    parser.add_argument("splits", type=Path, help="folder that DatasetSplits.save wrote")
    parser.add_argument("checkpoint", type=Path, help="file that is written, and gone on from if it is there")
    parser.add_argument("--settings", default="{}", help="TrainSettings as JSON; what is left out is default")
    parser.add_argument("--metric", default="{}", help="MetricDefinition as JSON; what is left out is default")
    parser.add_argument("--parent", type=Path, help="folder of the version whose weights to go on from")
    parser.add_argument("--replay", type=Path, help="file that RankingDataset.save wrote, of earlier windows")
    told = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = msgspec.json.decode(told.settings, type=TrainSettings)
        metric = msgspec.json.decode(told.metric, type=MetricDefinition)
        parent = None
        if told.parent:
            package = read(told.parent)
            verify(package, package.digest)
            parent = weights_of(package)
        splits = DatasetSplits.load(told.splits)
        replay = RankingDataset.load(told.replay) if told.replay else None
        with group(settings.device) as ranks:
            train(
                splits,
                settings,
                lambda report: print(msgspec.json.encode(report).decode(), flush=True),
                parent,
                metric,
                told.checkpoint,
                replay,
            )
            logging.info("rank %d of %d is done", ranks.rank, ranks.of)
    except (PipelineError, RegistryError, ValueError, msgspec.DecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
