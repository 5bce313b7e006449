"""Where a training stands after an epoch, in one file that a kill leaves whole.

An npz archive of plain arrays and a JSON header: nothing in it can be a pickle. Random numbers need no place in
it: those of an epoch follow from seed and epoch.
"""

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.durable import replace_file

log = logging.getLogger(__name__)

HEADER = "header"


@dataclass(frozen=True)
class Checkpoint:
    """inputs: digest of data and settings that the training began with; told: plain values; tensors: by name."""

    inputs: str
    told: dict[str, Any]
    tensors: Mapping[str, Tensor]

    def encode(self) -> bytes:
        """As an npz archive."""
        header = json.dumps({"inputs": self.inputs, "told": self.told}).encode()
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.tensors.items()}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **{HEADER: np.frombuffer(header, np.uint8)}, **arrays)
        return content.getvalue()

    @staticmethod
    def decode(content: bytes) -> "Checkpoint":
        """What `encode` made. Raises ValueError for anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                header = json.loads(arrays[HEADER].tobytes())
                tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != HEADER}
                return Checkpoint(header["inputs"], header["told"], tensors)
        except Exception as error:  # whatever zipfile, zlib and numpy make of garbage
            raise ValueError(f"no checkpoint: {error}") from error


def write(path: Path, checkpoint: Checkpoint) -> None:
    """All of it or, after a kill, what was there before; durable on return. Raises OSError if the disk refuses."""
    replace_file(path, checkpoint.encode())


def read(path: Path, inputs: str) -> bytes:
    """The content of a checkpoint of these inputs, empty if there is none.

    One of other data or settings, or a damaged one, is said in the log and will be replaced: a training that
    nobody watches must not stop at what is only there to save time.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    try:
        found = Checkpoint.decode(content).inputs
    except ValueError as error:
        log.warning("%s is no readable checkpoint (%s): training starts afresh", path, error)
        return b""
    if found != inputs:
        log.warning("%s is of other data or settings: training starts afresh", path)
        return b""
    return content
