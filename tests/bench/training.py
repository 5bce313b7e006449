"""`python -m tests.bench.training --data FOLDER`: what our rankers reach on real judgements.

Test NDCG@10 of every ranker and loss, mean and standard deviation over seeds, beside LightGBM's on the same
lists. Epochs are chosen on the validation lists that `letor.load` cuts from train. `--folds 5` shows instead what
the settings were chosen by: NDCG@10 by cross-validation over the train queries; the test lists are not looked at.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.ndcg import mean_ndcg
from pipelines.settings import TrainSettings
from pipelines.sources.letor import load
from pipelines.training.export import export_program, load_scorer
from pipelines.training.train import train
from registry.contracts.manifest import JUDGED_NDCG
from tests.bench.load import hardware, versions

SMALL_DATA = TrainSettings(
    hidden=(256, 64),
    quantiles=17,
    weight_decay=1.0,
    averaging=0.98,
    max_epochs=40,
    patience_epochs=20,
    device="cpu",
)
"""For a few hundred lists of some hundred features."""

RANKERS = {
    "MLP, LambdaLoss": (replace(SMALL_DATA, loss="lambdaloss"), 0.736),
    "MLP, ListNet": (replace(SMALL_DATA, loss="listnet"), 0.727),
    "MLP, approximate NDCG": (replace(SMALL_DATA, loss="approx_ndcg"), None),
    "attention, LambdaLoss": (replace(SMALL_DATA, loss="lambdaloss", ranker="attention", hidden=(256, 64)), None),
    "MLP, ListNet, default settings": (TrainSettings(device="cpu"), None),
}
"""With the bar that the mean is held against, if it has one."""


def reached(splits: DatasetSplits, settings: TrainSettings) -> float:
    """NDCG@10 of the test lists, by the exported program."""
    scorer = load_scorer(export_program(train(splits, settings).model))
    return _ndcg(splits.test, np.concatenate([scorer(judged.features) for judged in splits.test.lists()]))


def lightgbm_reached(splits: DatasetSplits, seed: int, stopped: bool) -> float:
    """As `reached`, with the parameters that LightGBM's example gives for this data.

    stopped: by validation, as our rankers are; else it learns from the validation lists too, for 100 rounds.
    """
    parts = [splits.train, splits.validation] if stopped else [_joined(splits.train, splits.validation)]
    first, *others = [
        lightgbm.Dataset(part.features, part.labels, group=np.diff(part.offsets), free_raw_data=False) for part in parts
    ]
    parameters = {
        "objective": "lambdarank",
        "eval_at": [10],
        "learning_rate": 0.1,
        "num_leaves": 31,
        "bagging_freq": 1,
        "bagging_fraction": 0.9,
        "min_data_in_leaf": 50,
        "min_sum_hessian_in_leaf": 5.0,
        "num_threads": 1,
        "seed": seed,
        "verbose": -1,
    }
    callbacks = [lightgbm.early_stopping(50, verbose=False)] if stopped else []
    booster = lightgbm.train(parameters, first, 100, valid_sets=others, callbacks=callbacks)
    return _ndcg(splits.test, np.asarray(booster.predict(splits.test.features)))


def folds(splits: DatasetSplits, count: int, seed: int) -> Iterator[DatasetSplits]:
    """Train and validation queries together, each once in a `test` part; the real test lists are not in them."""
    queries = _joined(splits.train, splits.validation)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(queries)), count)
    for i, held_out in enumerate(parts):
        rest = queries.take(np.sort(np.concatenate([part for j, part in enumerate(parts) if j != i])))
        train_part, validation = rest.cut(0.15, seed)
        yield DatasetSplits(train_part, validation, queries.take(np.sort(held_out)))


def _joined(first: RankingDataset, second: RankingDataset) -> RankingDataset:
    return replace(
        first,
        features=np.concatenate([first.features, second.features]),
        labels=np.concatenate([first.labels, second.labels]),
        offsets=np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        query_ids=first.query_ids + second.query_ids,
        item_ids=first.item_ids + second.item_ids,
        query_texts=first.query_texts + second.query_texts,
    )


def _ndcg(dataset: RankingDataset, scores: np.ndarray) -> float:
    return mean_ndcg(dataset.labels, scores, dataset.offsets, JUDGED_NDCG).mean


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=0, help="cross-validation instead of the test lists")
    parser.add_argument("--only", default="", help="rankers whose name has this in it")
    told = parser.parse_args()
    splits = load(told.data)
    trials = list(folds(splits, told.folds, 0)) if told.folds else [splits]
    seeds = range(told.seeds)
    print(f"{hardware()}; {versions()}; lightgbm {lightgbm.__version__}; seeds 0 to {told.seeds - 1}")
    print(f"{splits.train.name}: {len(splits.train)} + {len(splits.validation)} lists, test {len(splits.test)}")
    print(f"NDCG@10 {f'of {told.folds} folds of the train queries' if told.folds else 'of the test lists'}\n")
    print("| ranker | mean | sd over seeds | bar | CPU s a training |\n|---|---:|---:|---:|---:|")
    rows = [(name, settings, bar) for name, (settings, bar) in RANKERS.items() if told.only in name]
    for name, settings, bar in rows:
        began_s = time.process_time()
        figures = [statistics.mean(reached(trial, replace(settings, seed=seed)) for trial in trials) for seed in seeds]
        _print_row(name, figures, bar, (time.process_time() - began_s) / len(trials) / len(figures))
    for name, stopped in (("LightGBM, stopped by validation", True), ("LightGBM, validation lists learnt too", False)):
        if told.only in name:
            began_s = time.process_time()
            figures = [statistics.mean(lightgbm_reached(trial, seed, stopped) for trial in trials) for seed in seeds]
            _print_row(name, figures, None, (time.process_time() - began_s) / len(trials) / len(figures))


def _print_row(name: str, figures: list[float], bar: float | None, cpu_s: float) -> None:
    mean, spread = statistics.mean(figures), statistics.stdev(figures) if len(figures) > 1 else float("nan")
    held = "" if bar is None else f"{bar:.3f}: {'met' if mean >= bar else 'missed'}"
    print(f"| {name} | {mean:.4f} | {spread:.4f} | {held} | {cpu_s:.1f} |", flush=True)


if __name__ == "__main__":
    main()
