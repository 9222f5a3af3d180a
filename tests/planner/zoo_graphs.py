"""The graphs of all models of the zoo, from a file: capturing them takes minutes.

``python -m tests.planner.zoo_graphs`` writes the file anew; a slow test notices when some no longer match.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

from splitnn.graph.graph import Graph

FILE = Path(__file__).with_name("zoo_graphs.json.gz")


@cache
def zoo_graphs() -> dict[str, Graph]:
    """By the model's name."""
    return {name: Graph.from_json(data) for name, data in json.loads(gzip.decompress(FILE.read_bytes())).items()}


def main() -> None:
    from splitnn import zoo
    from splitnn.graph.capture import capture

    found = {entry.name: capture(*zoo.resolve(entry.name)).graph.to_json() for entry in zoo.models()}
    FILE.write_bytes(gzip.compress(json.dumps(found, separators=(",", ":")).encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
