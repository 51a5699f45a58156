"""Runs `halfbyte kernels --compile` under each driver and reads what it says of each kernel."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
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


@dataclass
class Result:
    """What one compiler makes of kernels."""

    target: str
    rows: list
    wrong: list
    # Names of all kernels that there are for it, without constants, whether it was asked for them or not.
    known: set


def base(name):
    """A kernel's name without constants."""
    return name.split("@")[0]


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
    # The folder has one driver for a target, and so one adapter: any name.
    return [*inside(root), "env", "-i", "PATH=/usr/bin:/bin", *settings, PROGRAM, "kernels", "--adapter=", *arguments]


def measure(root, target, part, which):
    """What is made of the kernels whose names contain `part`: `all`, of those that differ in constants only `once` each, or
    `pairs` of their modules."""
    named = [part] if part else []
    arguments = [*named, *([] if which == "all" else [f"--{which}"])]
    lists = [subprocess.run(command(root, target, False, ["--json", *of]), capture_output=True, text=True) for of in (arguments, named)]
    for done in lists:
        if done.returncode:
            return Result(target.name, [], [f"{target.name}: {done.stderr.strip()}"], set())
    kernels, known = (json.loads(done.stdout)["kernels"] for done in lists)
    said, wrong = {}, []

    def take(name, text):
        said[name] = target.parse(text)
        wrong.extend(f"{target.name}: {line}" for line in re.findall(r"(?m)^failed: .*$", text))

    exit_code, tail = run(command(root, target, True, ["--compile", *arguments]), target.prints_to_stdout, take)
    if exit_code and not wrong:
        wrong.append(f"{target.name}: exit {exit_code}\n{tail}")
    rows = [Row(kernel, target.name, said.get(kernel["name"])) for kernel in kernels]
    # A driver says nothing of a kernel whose code it has made before, for another. It can't have made most of them before.
    silent = [row.name for row in rows if row.stats is None]
    if not wrong and 2 * len(silent) > len(rows):
        wrong.append(f"{target.name}: the driver says nothing of {len(silent)} kernels: {silent[0]}, …")
    return Result(target.name, rows, wrong, {base(kernel["name"]) for kernel in known})


def run(command, to_terminal, take):
    """Runs a command, calls `take` with the name of each kernel and all that was said after it, and gives the exit code and the end.

    What a driver prints to standard output comes late if that is not a terminal, out of order with the names on standard error; so
    it gets one. NVIDIA's prints a gigabyte in all, line by line, which only a file takes without ado."""
    if not to_terminal:
        with tempfile.TemporaryFile() as file:
            exit_code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file).returncode
            file.seek(0)
            return exit_code, split(lambda: file.read(1 << 20), take)
    reader, writer = os.openpty()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
    os.close(writer)

    def read():
        try:
            return os.read(reader, 1 << 16)
        except OSError:
            return b""  # How Linux reports that nobody writes to a terminal any more.

    end = split(read, take)
    os.close(reader)
    return process.wait(), end


def split(read, take):
    """Calls `take` with each kernel's name and what follows it, as soon as that is complete. Gives the last lines."""
    name, text, rest = None, [], b""
    while piece := read():
        lines, newline, rest = (rest + piece).rpartition(b"\n")
        lines += newline
        while b"kernel: " in lines and (start := re.search(rb"(?m)^kernel: (\S+)\r?$", lines)):
            text.append(lines[: start.start()])
            if name:
                take(name, decode(text))
            name, text, lines = start[1].decode(), [], lines[start.end() :]
        text.append(lines)
    text.append(rest)
    if name:
        take(name, decode(text))
    return "\n".join(decode(text).splitlines()[-5:])


def decode(pieces):
    return b"".join(pieces).decode(errors="replace").replace("\r\n", "\n")


def build(repository):
    """Builds the program, and says where it is."""
    print("Building halfbyte.", file=sys.stderr)
    subprocess.run(["cargo", "build"], cwd=repository, check=True)
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(repository, "target")), "debug/halfbyte")
