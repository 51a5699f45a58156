"""Tables: of single kernels for people at work, and the one that is committed and compared with."""

import re
from collections import Counter
from dataclasses import dataclass

from measure import base
from targets import TARGETS

# A kernel may grow by this part of the committed figure, and, since a tenth of little is nothing, always by so many.
GROWTH = 0.10
FREE = {"instructions": 10, "registers": 8}


# Constants that decide how many weights share what a turn costs.
SIZES = {"ROWS": "rows", "COLS": "columns"}


@dataclass
class Cell:
    """What one compiler makes of a kernel: the worst, if several were compiled that differ in constants."""

    instructions: int
    per_weight: float | None
    registers: int
    spills: int
    occupancy: int

    def __str__(self):
        weight = [] if self.per_weight is None else [f"{self.per_weight:.2f}"]
        return " · ".join([str(self.instructions), *weight, str(self.registers), str(self.spills), str(self.occupancy)])

    @staticmethod
    def parse(text):
        parts = text.split(" · ")
        weight = float(parts[1]) if len(parts) == 5 else None
        return Cell(int(parts[0]), weight, *map(int, parts[-3:]))

    @staticmethod
    def worst(rows):
        weights = [row.arithmetic[0] for row in rows if row.arithmetic]
        stats = [row.stats for row in rows]
        return Cell(max(s.instructions for s in stats), max(weights, default=None), max(s.registers for s in stats),
                    max(s.spills for s in stats), min(s.occupancy for s in stats))


def group(rows):
    """Kernel without constants → target → cell."""
    grouped = {}
    for row in rows:
        if row.stats:
            grouped.setdefault(base(row.name), {}).setdefault(row.target, []).append(row)
    return {kernel: {target: Cell.worst(of) for target, of in targets.items()} for kernel, targets in sorted(grouped.items())}


def text(rows):
    """All rows, for a terminal."""
    table = [["kernel", "compiler", "instructions", "per weight", "turns", "registers", "spills", "occupancy"]]
    for row in sorted(rows, key=lambda row: row.name):
        s, arithmetic = row.stats, row.arithmetic
        numbers = [s.instructions, "", "", s.registers, s.spills, s.occupancy] if s else ["-"] * 6
        if arithmetic:
            numbers[1:3] = f"{arithmetic[0]:.2f}", arithmetic[1]
        table.append([row.name, row.target, *map(str, numbers)])
    return aligned(table)


def aligned(table):
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ("  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))) for line in table)
    return "\n".join(line.rstrip() for line in lines)


def loops(rows):
    """What the hot loop of each kernel is made of, most frequent first."""
    lines = []
    for row in rows:
        if row.stats and row.stats.loop:
            loop, count = row.stats.loop, Counter()
            for instruction in loop.code:
                count[instruction.op if instruction.arithmetic else f"({instruction.op})"] += max(1, instruction.arithmetic)
            ops = "  ".join(f"{op} {n}" for op, n in count.most_common())
            lines.append(f"{row.name} {row.target}: {loop.arithmetic} arithmetic, {loop.bytes:.0f} bytes\n  {ops}")
    return "\n".join(lines)


INTRODUCTION = """\
# Kernels

What the shader compilers of GPUs make of every kernel. Written by `./scripts/kernels table`; `./scripts/kernels check` fails if a
kernel does not compile, spills what this page does not say, or has grown by more than 10 % over it ([CONTRIBUTING](../CONTRIBUTING.md#kernels-on-gpus-that-one-does-not-have)).

The compilers are those of Mesa {version}, which are what runs on these GPUs under Linux, on a kernel interface that does nothing
(`mesa-drm-shim`): what is compiled is real, and nothing is executed. On other systems other compilers run. So these figures compare a
kernel with itself and with other kernels, and find what costs registers; they are not times.

| compiler | GPU and driver | registers are | occupancy is |
| --- | --- | --- | --- |
{compilers}

The device is opened as for a model: without Vulkan's robust buffer access, whose checks Metal does not have either. With it, Apple's compiler
splits each load of a vector into checked loads of single numbers: 7.35 arithmetic instructions a weight in the first Q4_0 kernel, instead of 4.76.

## Arithmetic per weight

Counted in the machine code, as the driver prints it after everything else: the natural loops are found from the branches; the hot
loop is the one that loads most from buffers among those within which no other loop loads, and which store nothing to workgroup memory;
its arithmetic instructions are divided
by the weights that an invocation takes in one turn of it, which is in the kernel's header (`turn`) and in `halfbyte kernels --json`.
Where a compiler made one turn of several, which shows in the bytes that the loop loads, the weights are so many times more. Every
instruction of the vector unit counts that is not a load, a store, a wait or a branch: multiplications, conversions, masks, shifts, moves and the
arithmetic of addresses; all sides of branches count; those of AMD's and NVIDIA's scalar units do not, which run once for a whole
subgroup. An instruction counts once, whatever it costs: one that makes two f16 or two f32 results, too; Adreno's repeats count each time.

By way to multiply (`shaders/dot/`) and by the rows of weights, or columns of x, that an invocation takes; the worst of the epilogues, with f16 or without. (`matvec_two` multiplies two matrices of different formats in two loops; its figure
below is that of the loop that loads more, and no figure of one format. `matvec_few` multiplies each weight by all columns.)

{weights}

## All kernels

Instructions · arithmetic per weight (matvec) · registers · spills · occupancy. A kernel's name is its file and what fills its slots; of
variants that differ in constants only, one is compiled (`./scripts/kernels check --all` compiles all). Spills are what is stored to memory or to other registers for want of registers,
and accesses to private memory. An empty cell: the device does not use the kernel, nor would it without f16, subgroups or matrices; or
its driver found that it is the same code as another one's.

{all}
"""


def markdown(header, lines):
    rows = [header, ["---"] + ["---:"] * (len(header) - 1), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in rows)


def document(rows, version):
    """The page."""
    names = [target.name for target in TARGETS]
    compilers = "\n".join(f"| {t.name} | {t.compiler} | {t.registers} | {t.occupancy} |" for t in TARGETS)
    weights = {}
    for row in rows:
        # Each way to multiply, in subgroups. A row with two rows of weights is for small matrices.
        modules = row.kernel["modules"]
        if row.arithmetic and modules.get("lanes") == "subgroup" and modules.get("x") != "shared" and "quant2" not in modules:
            constants = row.kernel["constants"]
            size = "".join(f", {constants[name]:.0f} {what}" for name, what in SIZES.items() if name in constants)
            key = (row.kernel["kernel"], modules["quant"], modules["dot"] + size)
            figures = weights.setdefault(key, {})
            figures[row.target] = max(figures.get(row.target, 0), row.arithmetic[0])
    lines = [[f"{kernel} {quant}, {how}", *(f"{figures[name]:.2f}" if name in figures else "" for name in names)]
             for (kernel, quant, how), figures in sorted(weights.items())]
    grouped = group(rows)
    cells = [[f"`{kernel}`", *(str(targets[name]) if name in targets else "" for name in names)] for kernel, targets in grouped.items()]
    return INTRODUCTION.format(version=version, compilers=compilers, weights=markdown(["kernel, format", *names], lines),
                               all=markdown(["kernel", *names], cells))


def read(page):
    """The version of Mesa, and kernel → target → cell, as a page has them."""
    version = re.search(r"those of Mesa (\S+),", page)
    table = page[page.index("## All kernels"):] if "## All kernels" in page else ""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    if not version or len(lines) < 3:
        return "", {}
    names = lines[0][1:]
    cells = {line[0].strip("`"): {name: Cell.parse(cell) for name, cell in zip(names, line[1:]) if cell} for line in lines[2:]}
    return version[1], cells


def compare(results, committed):
    """What is worse than the committed page allows."""
    wrong = []
    for kernel, targets in group([row for result in results for row in result.rows]).items():
        if kernel not in committed:
            wrong.append(f"{kernel} is not in the table")
        for target, cell in targets.items():
            # Without a cell the driver found it to be the same as another one, which depends on what it compiled before.
            before = committed.get(kernel, {}).get(target)
            if cell.spills > (before.spills if before else 0):
                wrong.append(f"{target}: {kernel} spills: {cell.spills}")
            if before:
                wrong += [f"{target}: {kernel}: {grown}" for grown in growth(before, cell)]
    for result in results:
        gone = [kernel for kernel, targets in committed.items() if result.target in targets and kernel not in result.known]
        wrong += [f"{result.target}: {kernel} is in the table, but there is no such kernel any more" for kernel in gone]
    return wrong


def growth(before, cell):
    """What has grown by more than it may."""
    for what in ("instructions", "per_weight", "registers"):
        old, new = getattr(before, what), getattr(cell, what)
        if old is not None and new is not None and new > old * (1 + GROWTH) and new > old + FREE.get(what, 0):
            yield f"{what.replace('_', ' ')} {old} → {new}"
    if cell.occupancy < before.occupancy * (1 - GROWTH):
        yield f"occupancy {before.occupancy} → {cell.occupancy}"
