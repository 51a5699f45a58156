"""Tables: of single kernels for people at work, and the one that is committed."""

from collections import Counter


def cells(row):
    """Instructions, arithmetic per weight, registers, spills, occupancy."""
    stats = row.stats
    if stats is None:
        return ["-"] * 6
    arithmetic = row.arithmetic
    unrolled = f"{arithmetic[1]}" if arithmetic else ""
    per_weight = f"{arithmetic[0]:.2f}" if arithmetic else ""
    return [str(stats.instructions), per_weight, unrolled, str(stats.registers), str(stats.spills), str(stats.occupancy)]


def text(rows):
    """All rows, for a terminal."""
    table = [["kernel", "compiler", "instructions", "per weight", "turns", "registers", "spills", "occupancy"]]
    table += [[row.name, row.target, *cells(row)] for row in sorted(rows, key=lambda row: row.name)]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ("  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))) for line in table)
    return "\n".join(line.rstrip() for line in lines)


def loops(rows):
    """What the hot loop of each kernel is made of, most frequent first."""
    lines = []
    for row in rows:
        if row.stats and row.stats.loop:
            count = Counter()
            for instruction in row.stats.loop.code:
                count[instruction.op if instruction.arithmetic else f"({instruction.op})"] += max(1, instruction.arithmetic)
            ops = "  ".join(f"{op} {n}" for op, n in count.most_common())
            loop = row.stats.loop
            lines.append(f"{row.name} {row.target}: {loop.arithmetic} arithmetic, {loop.bytes:.0f} bytes\n  {ops}")
    return "\n".join(lines)
