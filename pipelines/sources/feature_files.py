"""Feature files: Parquet, CSV, Arrow and Feather, read in bounded parts as float32 rows of a view.

Numbers, booleans and decimals become float32; null and NaN are missing values. Rows are counted
from 1, a CSV's header apart.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.errors import DataRefused
from registry.contracts.errors import InvalidName
from registry.contracts.features import FeatureView
from registry.contracts.ids import check_id

PART_BYTES = 4 << 20  # of values; what is in memory at a time is a few of these
MAX_PART_ROWS = 16_384
UNREADABLE = (OSError, ValueError, pa.ArrowException)  # names that are no UTF-8 are ValueErrors
_CSV_ERROR = re.compile(r"In CSV column #(?P<column>\d+): Row #(?P<row>\d+): (?P<what>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Consecutive rows of a file. first_row: number of the first. values: float32 (rows, `row`
    columns of the view), NaN where missing."""

    first_row: int
    item_ids: list[str]
    values: NDArray[np.float32]


class FeatureFile:
    """One file, held against a view before its first row is read.

    item_column: holds the item's id, text or whole numbers. rows: how many there are, None if only
    reading tells. ignored: columns that the view does not have.
    Raises DataRefused if the file is of another kind, or a column is missing, there twice, or no number.
    """

    def __init__(self, path: Path, view: FeatureView, item_column: str = "item") -> None:
        self.path, self._item = path, item_column
        self._columns = [column.name for column in view.of_source("row")]
        if not self._columns:
            raise DataRefused(f"feature view {view.name!r} stores no columns: there is nothing to load for it")
        self._kind = _kind(path)
        try:
            self._schema, self.rows = self._look()
            names = self._schema.names
        except UNREADABLE as error:
            raise DataRefused(f"{path}: not a readable {self._kind} file: {_line(error)}") from error
        self._check(view)
        wanted = {item_column, *self._columns}
        self.ignored = [name for name in names if name not in wanted]
        self._part_rows = max(1, min(MAX_PART_ROWS, PART_BYTES // (4 * len(self._columns))))

    def parts(self, skip_rows: int = 0) -> Iterator[FeatureRows]:
        """The rows after the first `skip_rows`, in order. Raises DataRefused, naming row and column."""
        try:
            for start, batch in self._batches(skip_rows):
                skip = max(0, skip_rows - start)
                for offset in range(skip, len(batch), self._part_rows):
                    yield self._rows(batch.slice(offset, self._part_rows), start + offset + 1)
        except UNREADABLE as error:
            raise DataRefused(f"{self.path}: {self._place(str(error))}") from error

    def _look(self) -> tuple[pa.Schema, int | None]:
        """Schema and number of rows, from as little of the file as tells them."""
        if self._kind == "Parquet":
            with pq.ParquetFile(self.path) as parquet:
                return parquet.schema_arrow, parquet.metadata.num_rows
        if self._kind == "CSV":
            with pc.open_csv(self.path) as reader:
                return reader.schema, None
        with pa.memory_map(str(self.path)) as source:
            return _open_arrow(source).schema, None

    def _check(self, view: FeatureView) -> None:
        names = self._schema.names
        wanted = [self._item, *self._columns]
        if missing := [name for name in wanted if name not in names]:
            hint = "; name the column of ids with --item-column" if self._item in missing else ""
            raise DataRefused(
                f"{self.path}: columns {missing} are missing: view {view.name!r} stores {self._columns}, "
                f"and ids stand in {self._item!r}{hint}"
            )
        found = Counter(names)
        if repeated := sorted(name for name in set(wanted) if found[name] > 1):
            raise DataRefused(f"{self.path}: columns {repeated} stand there more than once")
        if self._kind == "CSV":
            return  # types are told, not found
        for name in self._columns:
            kind = self._schema.field(name).type
            if not (_is_number(kind) or pa.types.is_null(kind)):
                raise DataRefused(f"{self.path}: column {name!r} is {kind}: expected numbers or booleans")
        kind = self._schema.field(self._item).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_integer(inner)):
            raise DataRefused(f"{self.path}: column {self._item!r} is {kind}: expected text or whole numbers")

    def _batches(self, skip_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Record batches with the number of rows before each; those to skip may be left out."""
        wanted = [self._item, *self._columns]
        start = 0
        if self._kind == "Parquet":
            with pq.ParquetFile(self.path) as parquet:
                counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
                told = f"{sum(counts)} rows in its groups, {self.rows} in all"
                if sum(counts) != self.rows:
                    raise DataRefused(f"{self.path}: its footer says {told}: it is damaged, write it again")
                first = 0
                while first < len(counts) and start + counts[first] <= skip_rows:
                    start += counts[first]
                    first += 1
                groups = list(range(first, len(counts)))
                for batch in parquet.iter_batches(self._part_rows, row_groups=groups, columns=wanted):
                    yield start, batch
                    start += len(batch)
                if start != self.rows:
                    raise DataRefused(f"{self.path}: its footer says {told}, it has {start}: write it again")
        elif self._kind == "CSV":
            types = {name: pa.float32() for name in self._columns} | {self._item: pa.string()}
            with pc.open_csv(
                self.path,
                read_options=pc.ReadOptions(use_threads=False, block_size=PART_BYTES),  # threads lose count of rows
                parse_options=pc.ParseOptions(newlines_in_values=True),
                convert_options=pc.ConvertOptions(column_types=types, include_columns=wanted),
            ) as reader:
                for batch in reader:
                    yield start, batch
                    start += len(batch)
        else:
            with pa.memory_map(str(self.path)) as source:
                reader = _open_arrow(source)
                batches = (
                    (reader.get_batch(i) for i in range(reader.num_record_batches))
                    if isinstance(reader, pa.ipc.RecordBatchFileReader)
                    else reader
                )
                for batch in batches:
                    batch.validate(full=True)  # nobody else looks: a wrong offset would read beyond the file
                    yield start, batch
                    start += len(batch)

    def _rows(self, batch: pa.RecordBatch, first_row: int) -> FeatureRows:
        values = np.empty((len(batch), len(self._columns)), dtype=np.float32)
        for i, name in enumerate(self._columns):
            column = batch.column(batch.schema.get_field_index(name))
            if pa.types.is_decimal(column.type):
                column = column.cast(pa.float64())
            values[:, i] = column.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
        items = batch.column(batch.schema.get_field_index(self._item)).cast(pa.string()).to_pylist()
        self._check_ids(items, first_row)
        return FeatureRows(first_row, items, values)

    def _check_ids(self, items: Sequence[str | None], first_row: int) -> None:
        for row, item in enumerate(items, first_row):
            try:
                check_id(self._item, item or "")
            except InvalidName as error:
                raise DataRefused(f"{self.path}, row {row}: {error}") from error

    def _place(self, message: str) -> str:
        if not (found := _CSV_ERROR.fullmatch(message)):
            return _line(message)
        name = self._schema.names[int(found["column"])]
        return f"row {int(found['row']) - 1}, column {name!r}: {_line(found['what'])}"  # the header is pyarrow's row 1


def _kind(path: Path) -> str:
    match [suffix.lower() for suffix in path.suffixes[-2:]]:
        case [*_, ".parquet" | ".pq"]:
            return "Parquet"
        case [*_, ".csv"] | [".csv", ".gz" | ".bz2" | ".zst"]:
            return "CSV"
        case [*_, ".arrow" | ".arrows" | ".feather" | ".ipc"]:
            return "Arrow"
    raise DataRefused(f"{path}: expected a name that ends in .parquet, .csv, .csv.gz, .arrow or .feather")


def _open_arrow(source: pa.NativeFile) -> "pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader":
    magic = source.read(6)
    source.seek(0)
    return pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def _line(error: object) -> str:
    return " ".join(str(error).split())
