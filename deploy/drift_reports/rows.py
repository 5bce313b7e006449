"""Logged lists out of the archive, as `drift.evidently_reports` takes them."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from drift.evidently_reports.sample import Lists, ListSample
from pipelines.archive.files import Archive
from pipelines.archive.tables import hashes
from registry.contracts.profile import ReferenceProfile

COLUMNS = ("ranking_id", "answered_ms", "version", "arm", "fingerprint", "features", "margin", "entropy")


def sampled(
    archive: Archive,
    model: str,
    arm: str,
    version: int | None,
    profile: ReferenceProfile,
    spans: Iterable[tuple[int, int]],
    most: int,
) -> ListSample:
    """At most so many lists of the arm in these spans of time, since_ms <= t < until_ms, that fit the profile's view.

    version: None for all that there were. Memory: of the sample and of a part of the archive. Raises DataRefused.
    """
    columns = len(profile.features)
    sample = ListSample(most, columns)
    for since_ms, until_ms in spans:
        for part in archive.ranking_parts(model, since_ms, until_ms, COLUMNS):
            fits = pc.and_(pc.equal(part["arm"], arm), pc.equal(part["fingerprint"], profile.fingerprint))
            if version is not None:
                fits = pc.and_(fits, pc.equal(part["version"], version))
            sample.add(_lists(part.filter(fits), columns))
    return sample


def _lists(rankings: pa.Table, columns: int) -> Lists:
    numbers = pc.fill_null(pc.list_value_length(rankings["features"]), 0).to_numpy()
    whole = (numbers > 0) & (numbers % columns == 0)
    rankings, numbers = rankings.filter(pa.array(whole)), numbers[whole]
    if not len(rankings):
        return Lists.none(columns)
    values = rankings["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Lists(
        hashes=hashes(rankings["ranking_id"]),
        answered_ms=rankings["answered_ms"].to_numpy(),
        shown=numbers.astype(np.int64) // columns,
        values=values.reshape(-1, columns),
        margin=rankings["margin"].to_numpy(),
        entropy=rankings["entropy"].to_numpy(),
    )
