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
PAGE = REPOSITORY / "docs/kernels.md"


def main():
    args = arguments()
    targets = chosen(args.targets)
    try:
        root = sandbox.prepare()
    except sandbox.Refused as refused:
        sys.exit(f"kernels: {refused}")
    program = args.program or measure.build(REPOSITORY)
    with measure.installed(root, program), ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda target: measure.measure(root, target, args.part, args.which), targets))
    rows = [row for result in results for row in result.rows]
    wrong = [problem for result in results for problem in result.wrong]
    hint = ""
    if args.command == "show":
        print(report.text(rows))
        if args.loops:
            print(report.loops(rows))
    elif args.command == "table":
        PAGE.write_text(report.document(rows, sandbox.version(root)))
    else:
        version, committed = report.read(PAGE.read_text())
        worse = report.compare(results, committed)
        if worse:
            hint = "If that is as it should be: ./scripts/kernels table, and commit docs/kernels.md."
            if version != sandbox.version(root):
                hint += f" The table was made with Mesa {version}, and this is {sandbox.version(root)}."
        wrong += worse
        print(f"{len(rows)} pipelines compiled by {len(targets)} compilers, {len(wrong)} problems")
    for problem in wrong:
        print(problem, file=sys.stderr)
    if hint:
        print(hint, file=sys.stderr)
    sys.exit(1 if wrong else 0)


def chosen(names):
    if not names:
        return TARGETS
    known = {target.name: target for target in TARGETS}
    unknown = [name for name in names.split(",") if name not in known]
    if unknown:
        sys.exit(f"kernels: no compiler {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names.split(",")]


def arguments():
    parser = argparse.ArgumentParser(prog="./scripts/kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print a table of some kernels")
    show.add_argument("part", nargs="?", default="", help="only kernels whose names contain this")
    show.add_argument("--loops", action="store_true", help="also what their inner loops are made of")
    table = commands.add_parser("table", help="write docs/kernels.md, with all compilers")
    check = commands.add_parser("check", help="fail if a kernel does not compile, spills, or has grown over docs/kernels.md")
    for command in (show, check):
        command.add_argument("--targets", metavar="NAME,…", help="some of " + ", ".join(target.name for target in TARGETS))
    which = check.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_const", dest="which", const="all", default="once",
                       help="all variants that differ in constants only, not one of each")
    which.add_argument("--pairs", action="store_const", dest="which", const="pairs",
                       help="one of each, and of a kernel so many that each two modules are together in one: a fifth")
    table.set_defaults(targets=None, which="once")
    show.set_defaults(which="all")
    for command in (table, check):
        command.set_defaults(part="")
    for command in (show, table, check):
        command.add_argument("--program", metavar="PATH", help="a built halfbyte; else it is built")
        command.add_argument("--jobs", type=int, default=2, metavar="N", help="compilers at a time [default: 2]")
    return parser.parse_args()


main()
