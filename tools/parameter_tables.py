"""The tables of ROS parameters in the operator's page and in the packages' READMEs, from the nodes' own settings.

python tools/parameter_tables.py            # rewrites every table between its markers
python tools/parameter_tables.py --check    # only says which files are not up to date
"""

from __future__ import annotations

import argparse
import re
import sys

from tool_main import ROOT, guarded

PAGES = (
    "docs/operator.md",
    "ros2_ws/src/alam_cameras/README.md",
    "ros2_ws/src/alam_piper/README.md",
    "ros2_ws/src/alam_policy/README.md",
    "ros2_ws/src/alam_sim/README.md",
)
BLOCK = re.compile(
    r"(<!-- parameters of /(\w+): written by tools/parameter_tables.py -->\n).*?(<!-- end -->)", re.DOTALL
)


def filled(text: str) -> str:
    """A page -> the same with every table between markers as the settings have it now. Raises KeyError for a node that
    has no settings."""
    import alam_cameras.settings
    import alam_piper.settings
    import alam_policy.settings
    import alam_sim.settings
    from alam_common.parameters import parameter_table

    nodes = {
        "piper": alam_piper.settings.PARAMETERS,
        "camera": alam_cameras.settings.PARAMETERS,
        "policy": alam_policy.settings.PARAMETERS,
        "metaworld": alam_sim.settings.PARAMETERS,
        "piper_mujoco": alam_sim.settings.PIPER_PARAMETERS,
    }
    return BLOCK.sub(lambda hit: f"{hit[1]}{parameter_table(nodes[hit[2]])}\n{hit[3]}", text)


def main() -> int:
    """-> exit code: with --check 1 when a page is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    stale = 0
    for name in PAGES:
        text = (ROOT / name).read_text()
        made = filled(text)
        if made == text:
            continue
        stale += 1
        print(f"{name}: {'not up to date' if arguments.check else 'written'}")
        if not arguments.check:
            (ROOT / name).write_text(made)
    return int(arguments.check and stale > 0)


if __name__ == "__main__":
    sys.exit(guarded("parameter_tables", main))
