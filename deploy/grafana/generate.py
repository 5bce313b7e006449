"""`python -m deploy.grafana.generate [FOLDER]`: the dashboards as the JSON that Grafana reads."""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import drift, features, gpu, overload, overview, pipelines, rollout_and_gate, serving
from deploy.grafana.panels import Board

FOLDER = Path(__file__).with_name("dashboards")


def boards() -> tuple[Board, ...]:
    """All of them, in the order of their links."""
    modules = (overview, serving, overload, features, drift, rollout_and_gate, pipelines, gpu)
    return tuple(module.board() for module in modules)


def documents() -> dict[str, str]:
    """JSON by file name, the same whenever it is made."""
    return {
        f"{board.uid}.json": json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for board in boards()
    }


def write(folder: Path) -> None:
    """Writes every board into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in documents().items():
        (folder / name).write_text(document)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
