"""The README's table of faults."""

import json
import subprocess
import sys

from fault_table import AFTER, BEGIN, END, table
from tool_main import ROOT

ROW = {
    "fault": "bus-off",
    "held_after_s": 0.251,
    "hold_limit_s": 1.5,
    "said": "holding: the CAN bus is down: alam_socket /tmp/a/can.sock: the bus is down",
    "after": "goes on",
    "moves_again_after_s": 3.14,
}


def run(*arguments):
    command = [sys.executable, str(ROOT / "tools/fault_table.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_rows():
    head, _, first, second = table(
        [ROW, ROW | {"held_after_s": None, "hold_limit_s": None, "after": "rides through"}]
    ).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "fault",
        "arm at rest after",
        "limit",
        "said",
        "then",
    ]
    assert "| 0.25 s | 1.50 s | holding: the CAN bus is down: alam_socket: the bus is down |" in first
    assert first.endswith("| goes on by itself (3.1 s) |") and "| - | - |" in second


def test_only_the_part_between_the_markers_is_written(tmp_path):
    results, page = tmp_path / "faults.json", tmp_path / "README.md"
    results.write_text(json.dumps([ROW | {"after": after} for after in AFTER]))
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        assert run(results, "--readme", page).returncode == 0
        text = page.read_text()
        assert text.startswith(f"before\n{BEGIN}\n| fault") and text.endswith(f"\n{END}\nafter\n")
        assert text.count("bus-off") == len(AFTER) and "\nold\n" not in text


def test_refusals(tmp_path):
    results, page = tmp_path / "faults.json", tmp_path / "README.md"
    page.write_text("no markers\n")
    results.write_text(json.dumps([ROW]))
    told = run(results, "--readme", page)
    assert told.returncode == 1 and "markers" in told.stderr and page.read_text() == "no markers\n"
    results.write_text('[{"fault": "bus-off"}]')
    told = run(results, "--readme", page)
    assert told.returncode == 1 and "wanted the JSON of a fault matrix run" in told.stderr
