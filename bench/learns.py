"""Did a run learn more than a blur? Its held-out loss beside what trivial predictors reach on the same images.

    deepspeed fastmim/train.py configs/debug/photographs.py --data.root FOLDER
    python -m bench.learns runs/photographs --record

Reads a run folder's metrics.jsonl. May import bench.record only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .record import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder, relative to the repository root")
    parser.add_argument("--record", action="store_true", help="append the row to bench/results/")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in (arguments.run / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "held_out" in row][-1]
    facts = json.loads((arguments.run / "facts.json").read_text())
    row = {
        "case": f"{arguments.run.name}: {facts['model']}, {facts['images'].split(', in ')[0]}",
        "device": "cuda" if "CPU" not in facts["devices"] else "cpu",
        "update": last["step"],
        "held_out_loss": last["held_out"],
        **{f"{name}_loss": value for name, value in last["trivial"].items()},
    }
    print(json.dumps(row, indent=2))
    if arguments.record:
        record(row, "learns")
    raise SystemExit(last["held_out"] >= min(last["trivial"].values()))


if __name__ == "__main__":
    main()
