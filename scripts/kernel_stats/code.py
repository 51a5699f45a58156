"""Machine code as drivers print it: instructions, control flow, loops.

A driver prints its code in a syntax of its own; each `parse_*` turns that into blocks of instructions of four kinds:
arithmetic, loads with their bytes, branches, and the rest. What is not known to be something else is arithmetic, so that
a mistake here makes a figure worse, not better.
"""

import re
from dataclasses import dataclass, field


@dataclass
class Instruction:
    op: str
    # Executed by the vector ALU, and how often (Adreno repeats instructions).
    arithmetic: int = 0
    # Bytes that an invocation loads from buffers.
    bytes: float = 0


@dataclass
class Block:
    labels: list
    code: list = field(default_factory=list)
    # Labels or indices of blocks that may follow.
    to: list = field(default_factory=list)
    falls_through: bool = True


@dataclass
class Loop:
    blocks: set
    code: list

    @property
    def arithmetic(self):
        return sum(instruction.arithmetic for instruction in self.code)

    @property
    def bytes(self):
        return sum(instruction.bytes for instruction in self.code)


def loops(blocks):
    """Natural loops: a depth-first walk finds the edges that lead back, and what reaches such an edge is its loop."""
    where = {label: i for i, block in enumerate(blocks) for label in block.labels}
    to = [[where[label] for label in block.to if label in where] for block in blocks]
    for i, block in enumerate(blocks[:-1]):
        if block.falls_through:
            to[i].append(i + 1)
    state, back, stack = [0] * len(blocks), [], [(0, iter(to[0]))] if blocks else []
    if blocks:
        state[0] = 1
    while stack:
        at, rest = stack[-1]
        following = next(rest, None)
        if following is None:
            state[at] = 2
            stack.pop()
        elif state[following] == 1:
            back.append((at, following))
        elif state[following] == 0:
            state[following] = 1
            stack.append((following, iter(to[following])))
    before = [[i for i, targets in enumerate(to) if target in targets and state[i]] for target in range(len(blocks))]
    bodies = {}
    for tail, head in back:
        body, todo = bodies.setdefault(head, {head}), [tail]
        while todo:
            block = todo.pop()
            if block not in body:
                body.add(block)
                todo += before[block]
    found = []
    for body in bodies.values():
        code = [instruction for block in body for instruction in blocks[block].code]
        found.append(Loop(body, code))
    return found


# Stores to workgroup memory, as the compilers call them.
SHARED_STORES = re.compile(r"(ds_(store|write)|local_store|sts|stl)", re.IGNORECASE)


def hot_loop(blocks):
    """Of the loops that load and have no such loop within, the one that loads most; None if nothing loops.

    One that stores to workgroup memory prepares what others read, and is not it.
    """
    loading = [loop for loop in loops(blocks) if loop.bytes and not any(SHARED_STORES.match(i.op) for i in loop.code)]
    innermost = [loop for loop in loading if not any(other.blocks < loop.blocks for other in loading)]
    return max(innermost, key=lambda loop: loop.bytes, default=None)


def blocks_by_label(lines):
    """Blocks out of `(labels, instruction, branch target or None, whether the next instruction may follow)`."""
    blocks = [Block([])]
    for labels, instruction, target, falls_through in lines:
        if labels and blocks[-1].code:
            blocks.append(Block([]))
        blocks[-1].labels += labels
        if instruction:
            blocks[-1].code.append(instruction)
        if target is not None or not falls_through:
            blocks[-1].to += [target] if target is not None else []
            blocks[-1].falls_through = falls_through
            blocks.append(Block([]))
    return blocks


AGX_LINE = re.compile(r"^\s*([0-9a-f]+): [0-9a-f]+\s+([a-z]\w*)\s*(.*)$", re.M)
AGX_SIZES = {"i8": 1, "u8norm": 1, "s8norm": 1, "i16": 2, "f16": 2, "u16norm": 2, "s16norm": 2, "i32": 4, "f32": 4}
AGX_OTHER = re.compile(r"^(load|store|wait|stop|jmp_\w+|pop_exec|push_exec|nop|trap|barrier|atomic\w*|local_\w+|stack_\w+|"
                       r"threadgroup_\w+|sample|texture\w*|image\w*|doorbell\w*|writeout|st_tile|ld_tile|memory_barrier)$")


def parse_agx(text):
    """Apple: the disassembly has addresses, and jumps are relative to their own. The preamble follows as a piece from 0 on."""
    pieces = []
    for address, op, rest in AGX_LINE.findall(text):
        address = int(address, 16)
        if address == 0:
            pieces.append([])
        if pieces:
            pieces[-1].append((address, op, rest))
    parsed = []
    for piece in pieces:
        targets = {address + int(rest.split()[-1]) for address, op, rest in piece if op.startswith("jmp_")}
        lines = []
        for address, op, rest in piece:
            instruction = Instruction(op, arithmetic=0 if AGX_OTHER.match(op) else 1)
            if op == "load":
                operands = [operand.strip() for operand in rest.split(",")]
                size = next((AGX_SIZES[operand] for operand in operands if operand in AGX_SIZES), 4)
                mask = next((operand for operand in operands if re.fullmatch(r"x?y?z?w?", operand) and operand), "x")
                instruction.bytes = size * len(mask)
            target = address + int(rest.split()[-1]) if op.startswith("jmp_") else None
            lines.append(([address] if address in targets else [], instruction, target, op != "stop"))
        parsed.append(blocks_by_label(lines))
    return parsed


ACO_LOAD = re.compile(r"^(buffer|global|flat|s|s_buffer|tbuffer)_load_(?:d16_)?(?:hi_)?(dwordx?\d*|[a-z]+\d+(?:x\d+)?|ubyte|ushort)")
ACO_SIZES = {"b32": 4, "b64": 8, "b96": 12, "b128": 16, "b256": 32, "b512": 64, "u8": 1, "i8": 1, "u16": 2, "i16": 2, "b16": 2,
             "dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16, "dwordx8": 32, "dwordx16": 64, "ubyte": 1, "ushort": 2}


def parse_aco(text):
    """AMD: labels `BB7:`. Vector instructions are arithmetic; scalar ones run once a wave, on a unit of their own."""
    text = text[text.rfind("\ndisasm:") + 1:] if "\ndisasm:" in text else ""
    lines = []
    for line in text.splitlines()[1:]:
        line = line.split(";")[0].strip()
        label = re.fullmatch(r"(BB\d+):", line)
        if label:
            lines.append(([label[1]], None, None, True))
            continue
        op = re.match(r"[a-z]\w+", line)
        if not op:
            if lines and not line:
                continue
            break
        op = op[0]
        load = ACO_LOAD.match(op)
        # Constants and descriptors come by scalar loads; so can an x that is the same for a whole wave.
        size = ACO_SIZES.get(load[2], 4) if load and load[1] != "s" else 0
        instruction = Instruction(op, arithmetic=int(op.startswith("v_") and op != "v_nop"), bytes=size)
        branch = re.match(r"s_c?branch\S*\s+(BB\d+)", line)
        lines.append(([], instruction, branch[1] if branch else None, op not in ("s_branch", "s_endpgm")))
    return [blocks_by_label(lines)]


NAK_OTHER = re.compile(r"^(ld|st|ldc|atom|red|bra|bssy|bsync|bclear|bmov|brk|break|exit|nop|bar|membar|warpsync|cctl|ldsm|"
                       r"suld|sust|tex|tld|out|kill|annotate|depbar|fence|undef|src_bar|s2r|cs2r|ipa|al2p|ald|ast)(\.|$)")


def parse_nak(text):
    """NVIDIA: a listing with the blocks that follow each. Instructions on uniform registers run once a warp, on a unit of
    their own."""
    blocks, within = [], False
    for line in text.splitlines():
        head = re.match(r"block\S* (\d+) ", line)
        if head:
            blocks.append(Block([int(head[1])], falls_through=False))
            within = True
            continue
        tail = re.match(r"\} -> \[([\d, ]*)\]", line)
        if tail and within:
            blocks[-1].to = [int(n) for n in tail[1].replace(",", " ").split()]
            within = False
            continue
        line = re.sub(r"^@!?u?p\w+\s*", "", line.split("//")[0].strip())
        if not within or not line:
            continue
        to, _, rest = line.rpartition(" = ")
        op = rest.split()[0]
        if not re.match(r"[a-z]", op):
            continue
        uniform = re.match(r"u[rp]\d", to.strip()) is not None
        size = re.match(r"ld\.global\S*\.[bui](\d+)", op)
        instruction = Instruction(op, arithmetic=int(not uniform and not NAK_OTHER.match(op)))
        instruction.bytes = int(size[1]) / 8 if size else 0
        blocks[-1].code.append(instruction)
    return [blocks]


IR3_OTHER = re.compile(r"^(nop|end|bar|fence|jump|br\w*|b(any|all)|predt|predf|prede|getone|getlast|elect|shps|shpe|chmask|chsh|"
                       r"kill|ld\w*|st\w*|isam\w*|sam\w*|resinfo\w*|atomic|dcinv|ccinv|lock|unlock|sleep|icinv|alias|ret|call)(\.|$)")
IR3_SIZES = {"u8": 1, "s8": 1, "u16": 2, "s16": 2, "f16": 2, "u32": 4, "s32": 4, "f32": 4, "b32": 4, "b16": 2}


def parse_ir3(text):
    """Adreno: labels `l46:`; `(rpt2)` executes an instruction three times."""
    lines, on = [], False
    for line in text.splitlines():
        line = line.removeprefix("MESA: info: ").strip()
        if line.startswith("Native code for"):
            lines, on = [], True
            continue
        if not on or line.startswith(";"):
            continue
        label = re.fullmatch(r"l(\d+):", line)
        if label:
            lines.append(([int(label[1])], None, None, True))
            continue
        times = 1
        while prefix := re.match(r"\((\w+)\)\s*", line):
            if repeat := re.fullmatch(r"rpt(\d)", prefix[1]):
                times += int(repeat[1])
            line = line[prefix.end():]
        if not re.match(r"[a-z]", line):
            continue
        op = line.split()[0]
        instruction = Instruction(op, arithmetic=0 if IR3_OTHER.match(op) else times)
        instruction.bytes = ir3_bytes(op, line)
        target = re.search(r"#l(\d+)\b", line)
        lines.append(([], instruction, int(target[1]) if target else None, op not in ("jump", "end")))
        if op == "end":
            on = False
    return [blocks_by_label(lines)]


def ir3_bytes(op, line):
    """Bytes of a load: through the texture unit, or by number of components."""
    if op.startswith("isam"):
        kind, mask = re.search(r"\((\w\d+)\)\((\w+)\)", line).groups()
        return IR3_SIZES[kind] * len(mask)
    if op.startswith("ldib"):
        kind, n = re.search(r"\.([usfb]\d+)\.(\d)", op).groups()
        return IR3_SIZES[kind] * int(n)
    if op.startswith("ldg"):
        return IR3_SIZES.get(op.rsplit(".", 1)[-1], 4) * int(line.rsplit(",", 1)[-1])
    return 0
