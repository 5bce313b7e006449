"""`python -m tests.fuzz`: so many damaged inputs to every parser of bytes from outside.

--cases N      of all targets together, shared out by their weights (1000000)
--seed S       the same seed and cases give the same inputs (0)
--only WORD    targets whose name contains it
--crashes DIR  where inputs that broke a promise are kept (tests/fuzz/crashes)
--replay FILE  one kept input, with its trace
--list         the targets, with how much of the cases each gets
"""

import argparse
import functools
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz import running
from tests.fuzz.children import in_child
from tests.fuzz.running import Result
from tests.fuzz.targets import all_targets

CRASHES = Path(__file__).parent / "crashes"


def main() -> int:
    """0 if every promise held."""
    arguments = _arguments()
    targets = {name: one for name, one in all_targets().items() if arguments.only in name}
    if arguments.replay is not None:
        return _replay(arguments.replay)
    whole = sum(one.share for one in targets.values())
    shares = {name: max(1, round(arguments.cases * one.share / whole)) for name, one in targets.items()}
    if arguments.list:
        for name, cases in shares.items():
            print(f"{name:32}{targets[name].form:10}{cases:9}")
        return 0
    began_s, broken = time.monotonic(), 0
    print(f"{'target':32}{'cases':>9}{'read':>9}{'outcomes':>9}{'CPU s':>8}  defects")
    for name, cases in shares.items():
        result = in_child(name, cases, arguments.seed, functools.partial(_show, cases))
        broken += len(result.defects)
        print(
            f"\r{name:32}{result.cases:9}{result.read:9}{len(result.outcomes):9}{result.cpu_s:8.1f}  "
            f"{len(result.defects) or '-'}",
            flush=True,
        )
        for kind, (data, trace) in result.defects.items():
            kept = running.crash_file(arguments.crashes, name, data)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)
            print(f"  {kind}\n  {kept}\n    " + trace.replace("\n", "\n    "), flush=True)
    print(f"{sum(shares.values())} cases in {time.monotonic() - began_s:.0f} s, {broken} defects")
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cases", type=int, default=1_000_000, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    parser.add_argument("--crashes", type=Path, default=CRASHES, help=argparse.SUPPRESS)
    parser.add_argument("--replay", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _replay(path: Path) -> int:
    target = all_targets()[running.target_of(path)]
    with (
        tempfile.TemporaryDirectory() as folder,
        target.opens(Path(folder)) as check,
        running.limited_memory(),
        running.limited_time() as begin,
    ):
        came, trace = running.attempt(check, path.read_bytes(), begin)
    print(f"{target.name}: {came}\n{trace}")
    return 1 if trace else 0


def _show(cases: int, result: Result) -> None:
    if sys.stdout.isatty():
        print(f"\r{result.target:32}{result.cases:9} of {cases}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
