"""The README's table of faults, from a run of the fault matrix.

ALAM_FAULT_RESULTS=faults.json make test ARGS="-m 'slow or not slow' tests/faults"   # every row, six minutes
python tools/fault_table.py faults.json            # rewrites the part of README.md between its two markers
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from tool_main import ROOT, guarded

BEGIN, END = "<!-- faults: written by tools/fault_table.py -->", "<!-- faults end -->"
AFTER = {
    "goes on": "goes on by itself",
    "rides through": "moves on throughout",
    "enable": "waits for `/robot/enable`",
    "reset": "stays stopped until `/robot/reset`, then `/robot/enable`",
    "launch": "every process ends; launch again, then `/robot/enable`",
}


def table(results: list[dict[str, Any]]) -> str:
    """Results of the fault matrix -> a Markdown table, one row a fault."""
    rows = ["| fault | arm at rest after | limit | said | then |", "|---|---|---|---|---|"]
    for result in results:
        held, limit = (
            "-" if result[key] is None else f"{result[key]:.2f} s" for key in ("held_after_s", "hold_limit_s")
        )
        said = re.sub(r" /\S+\.sock", "", result["said"])  # the emulated bus' socket, another one each run
        then = f"{AFTER[result['after']]} ({result['moves_again_after_s']:.1f} s)"
        rows.append(f"| {result['fault']} | {held} | {limit} | {said} | {then} |")
    return "\n".join(rows)


def main() -> int:
    """Rewrite the part of README.md between the two markers; -> exit code."""
    from alam_common.refusal import Refusal

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON that the fault matrix wrote")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file with the two markers")
    arguments = parser.parse_args()
    try:
        made = table(json.loads(arguments.results.read_text()))
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise Refusal(f"wanted the JSON of a fault matrix run in {arguments.results}, got: {error}") from None
    text = arguments.readme.read_text()
    if BEGIN not in text or END not in text:
        raise Refusal(f"wanted the markers {BEGIN} and {END} in {arguments.readme}, got neither or one")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    arguments.readme.write_text(re.sub(pattern, lambda _: f"{BEGIN}\n{made}\n{END}", text, flags=re.DOTALL))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("fault_table", main))
