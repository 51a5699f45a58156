"""What real shader compilers make of the kernels: `./scripts/kernels`."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import measure
import report
import sandbox
from targets import TARGETS

REPOSITORY = Path(__file__).resolve().parents[2]


def main():
    args = arguments()
    names = args.targets.split(",") if args.targets else [target.name for target in TARGETS]
    unknown = [name for name in names if name not in [target.name for target in TARGETS]]
    if unknown:
        sys.exit(f"no target {', '.join(unknown)}; there are {', '.join(target.name for target in TARGETS)}")
    targets = [target for target in TARGETS if target.name in names]
    try:
        root = sandbox.prepare()
    except sandbox.Refused as refused:
        sys.exit(f"kernels: {refused}")
    program = args.program or measure.build(REPOSITORY)
    with measure.installed(root, program), ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda target: measure.measure(root, target, args.part), targets))
    rows = [row for found, _ in results for row in found]
    wrong = [problem for _, problems in results for problem in problems]
    if args.command == "show":
        print(report.text(rows))
        if args.loops:
            print(report.loops(rows))
    for problem in wrong:
        print(problem, file=sys.stderr)
    sys.exit(1 if wrong else 0)


def arguments():
    parser = argparse.ArgumentParser(prog="./scripts/kernels", description=__doc__)
    parser.add_argument("command", choices=["show", "table", "check"])
    parser.add_argument("part", nargs="?", default="", help="only kernels whose names contain this (show)")
    parser.add_argument("--targets", help="some of " + ", ".join(target.name for target in TARGETS))
    parser.add_argument("--program", help="a built halfbyte; else it is built")
    parser.add_argument("--loops", action="store_true", help="also what their inner loops are made of (show)")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    return parser.parse_args()


main()
