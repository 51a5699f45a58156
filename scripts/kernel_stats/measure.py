"""Runs `halfbyte kernels --compile` under each driver and reads what it says of each kernel."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass

from sandbox import inside

# The program within the folder. Several of these scripts may run at a time.
PROGRAM = f"/tmp/halfbyte-{os.getpid()}"


@dataclass
class Row:
    """A kernel as one compiler has made it."""

    kernel: dict
    target: str
    stats: object

    @property
    def name(self):
        return self.kernel["name"]

    @property
    def arithmetic(self):
        """Arithmetic instructions per weight in the hot loop, and how many turns the compiler has made one of."""
        weights = self.kernel["weights_per_turn"]
        if not weights or not self.stats or not self.stats.loop:
            return None
        loop = self.stats.loop
        unrolled = max(1, round(loop.bytes / self.kernel["bytes_per_turn"]))
        return loop.arithmetic / (weights * unrolled), unrolled


@contextmanager
def installed(root, program):
    """The program is in the folder as long as this lasts."""
    copy = root / PROGRAM[1:]
    shutil.copy(program, copy)
    try:
        yield
    finally:
        copy.unlink()


def command(root, target, verbose, arguments):
    env = {"MESA_SHADER_CACHE_DISABLE": "1", "XDG_RUNTIME_DIR": "/tmp", "HOME": "/root", "NO_COLOR": "1", **target.environment(verbose)}
    settings = [f"{name}={value}" for name, value in env.items()]
    return [*inside(root), "env", "-i", "PATH=/usr/bin:/bin", *settings, PROGRAM, "kernels", "--adapter=", *arguments]


def measure(root, target, part):
    """The rows of all kernels whose names contain `part`, and what went wrong."""
    arguments = [part] if part else []
    listed = subprocess.run(command(root, target, False, ["--json", *arguments]), capture_output=True, text=True)
    if listed.returncode:
        return [], [f"{target.name}: {listed.stderr.strip()}"]
    kernels = json.loads(listed.stdout)["kernels"]
    text, exit_code = terminal(command(root, target, True, ["--compile", *arguments]))
    pieces = re.split(r"(?m)^kernel: (\S+)$", text)
    said = dict(zip(pieces[1::2], pieces[2::2]))
    wrong = [f"{target.name}: {line}" for line in re.findall(r"(?m)^failed: .*$", text)]
    if exit_code and not wrong:
        wrong = [f"{target.name}: exit {exit_code}\n" + "\n".join(text.splitlines()[-5:])]
    rows = []
    for kernel in kernels:
        stats = target.parse(said.get(kernel["name"], ""))
        if stats is None:
            wrong.append(f"{target.name}: the driver says nothing of {kernel['name']}")
        rows.append(Row(kernel, target.name, stats))
    return rows, wrong


def terminal(command):
    """What a command writes to its terminal, and its exit code. To a terminal, because drivers print to standard output too, and to a
    pipe that would come late, out of order with standard error."""
    reader, writer = os.openpty()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
    os.close(writer)
    pieces = []
    while True:
        try:
            piece = os.read(reader, 1 << 16)
        except OSError:
            break  # How Linux reports that nobody writes any more.
        if not piece:
            break
        pieces.append(piece)
    os.close(reader)
    return b"".join(pieces).decode(errors="replace").replace("\r\n", "\n"), process.wait()


def build(repository):
    """Builds the program, and says where it is."""
    print("Building halfbyte.", file=sys.stderr)
    subprocess.run(["cargo", "build"], cwd=repository, check=True)
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(repository, "target")), "debug/halfbyte")
