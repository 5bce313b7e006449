"""The bench's models on Triton's Python backend: what a user would run who has no Sluice.

The model is plain torch, built from the same seed as ours, one thread; `null` does no arithmetic.
"""

from deploy.capacity.measuring import HIDDEN
from tests.bench.platform_under_test import COLUMNS
from tests.triton import RemoteSource

MAX_ROWS = 4096
CONFIG = f"""
max_batch_size: {MAX_ROWS}
input [ {{ name: "features" data_type: TYPE_FP32 dims: [ {COLUMNS} ] }} ]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
"""
EXECUTE = """
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        given = [pb.get_input_tensor_by_name(request, "features").as_numpy() for request in requests]
        scores = score(given[0] if len(given) == 1 else np.concatenate(given))
        answers, start = [], 0
        for rows in given:
            answers.append(pb.InferenceResponse([pb.Tensor("scores", scores[start : start + len(rows)])]))
            start += len(rows)
        return answers
"""
NULL = """
def score(rows):
    return rows[:, :1].copy()
"""


def mlp(seed: int) -> str:
    """The layers of `platform_under_test.ltr_package` with the same weights."""
    return f"""
import torch
torch.set_num_threads(1)
torch.manual_seed({seed})
widths = {(COLUMNS, *HIDDEN)}
layers = []
for wide, narrow in zip(widths, widths[1:]):
    layers += [torch.nn.Linear(wide, narrow), torch.nn.ReLU()]
model = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], 1)).eval()

@torch.inference_mode()
def score(rows):
    return model(torch.from_numpy(rows)).numpy()
"""


def peers(seed: int) -> dict[str, RemoteSource]:
    """Both models, by the names they are served under."""
    return {
        "null": RemoteSource(CONFIG, NULL + EXECUTE),
        "mlp": RemoteSource(CONFIG, mlp(seed) + EXECUTE),
    }
