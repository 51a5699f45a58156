"""The compilers: how each driver is made to run without its GPU, and how to read what it says of a kernel."""

import re
from dataclasses import dataclass

import code as machine_code

LIB = "/usr/lib/x86_64-linux-gnu"
ICD = "/usr/share/vulkan/icd.d"


@dataclass(frozen=True)
class Target:
    name: str
    # For people.
    compiler: str
    driver: str
    # The library that answers for the kernel's driver.
    shim: str
    # Which GPU it is to be, and what the driver prints of each shader.
    chip: dict
    prints: dict
    parse: object
    # What the driver's numbers count.
    registers: str
    occupancy: str
    # Where to; else to standard error.
    prints_to_stdout: bool = False

    def environment(self, verbose):
        env = {"VK_DRIVER_FILES": f"{ICD}/{self.driver}_icd.json", "LD_PRELOAD": f"{LIB}/lib{self.shim}_noop_drm_shim.so", **self.chip}
        return {**env, **self.prints} if verbose else env


@dataclass
class Stats:
    """What a driver says of one kernel."""

    instructions: int
    registers: int
    spills: int
    occupancy: int
    # The hot loop, if there is one.
    loop: machine_code.Loop | None


def number(pattern, text):
    found = re.findall(pattern, text)
    return int(found[-1]) if found else None


def spilled(registers, private):
    """Registers that are spilled; or, where none is, bytes of private memory, into which an array went that could not be in registers."""
    return registers or private or 0


def stats(text, parsed, instructions, registers, spills, occupancy):
    """None where the driver has said nothing of a shader."""
    if instructions is None:
        return None
    found = [loop for loop in map(machine_code.hot_loop, parsed) if loop]
    hot = max(found, key=lambda loop: loop.bytes, default=None)
    return Stats(instructions, registers, spills, occupancy, hot)


def agx(text):
    lines = re.findall(r"CS shader: (.*)", text)
    line = lines[-1] if lines else ""
    spills = re.search(r"(\d+):(\d+) spills", line)
    return stats(text, machine_code.parse_agx(text), number(r"(\d+) instrs", line), number(r"(\d+) gprs", line),
                 spilled(int(spills[1]) + int(spills[2]), number(r"(\d+) scratch", line)) if spills else None,
                 number(r"(\d+) threads", line))


def aco(text):
    summary = text[text.rfind("*** SHADER STATS ***"):] if "*** SHADER STATS ***" in text else ""
    if not summary:
        return None
    spills = number(r"Spilled VGPRs: (\d+)", summary) + number(r"Spilled SGPRs: (\d+)", summary)
    return stats(text, machine_code.parse_aco(text), number(r"\nInstructions: (\d+)", summary),
                 number(r"\nVGPRs: (\d+)", summary), spilled(spills, number(r"Scratch size: (\d+)", summary)),
                 number(r"Subgroups per SIMD: (\d+)", summary))


def nak(text):
    # Before, the shader is printed after each pass; that is most of it.
    text = text[text.rfind("NAK IR after calc_instr_deps:"):]
    spills = re.findall(r"(?:Spills to|Fills from) mem: (\d+)", text)
    return stats(text, machine_code.parse_nak(text), number(r"Instruction count: (\d+)", text),
                 number(r"Num GPRs: (\d+)", text), spilled(sum(map(int, spills)), number(r"SLM size: (\d+)", text)),
                 number(r"Max warps/SM: (\d+)", text))


def ir3(text):
    summary = "\n".join(re.findall(r"CL prog.*", text))
    # The driver does not count spills: they are accesses to private memory.
    spills = len(re.findall(r"^(?:MESA: info: )?(?:\(\w+\)\s*)*(?:stp|ldp)\.", text, re.M))
    return stats(text, machine_code.parse_ir3(text), number(r": (\d+) instr,", summary), number(r"(\d+) full", summary), spills,
                 number(r"(\d+) max_waves", summary))


def radeon(name, compiler, chip):
    return Target(name, compiler, "radeon", "amdgpu", {"AMDGPU_GPU_ID": chip}, {"RADV_DEBUG": "shaderstats,asm"}, aco,
                  "vector registers", "waves per SIMD")


TARGETS = [
    Target("apple-m1", "Apple G13 (Honeykrisp)", "asahi", "asahi", {}, {"AGX_MESA_DEBUG": "shaders,shaderdb"}, agx,
           "16-bit registers", "invocations per core", prints_to_stdout=True),
    radeon("rdna2", "AMD RDNA2 (RADV, Navi 21)", "navi21"),
    radeon("rdna3", "AMD RDNA3 (RADV, Navi 31)", "navi31"),
    radeon("rdna4", "AMD RDNA4 (RADV, GFX 12.0.1)", "gfx1201"),
    Target("nvidia", "NVIDIA Ada (NVK)", "nouveau", "nouveau", {"NOUVEAU_CHIPSET": "192"}, {"NAK_DEBUG": "print"}, nak,
           "registers", "warps per SM"),
    Target("nvidia-turing", "NVIDIA Turing (NVK)", "nouveau", "nouveau", {"NOUVEAU_CHIPSET": "162"}, {"NAK_DEBUG": "print"}, nak,
           "registers", "warps per SM"),
    # The chip that the shim takes by itself: no f16, no matrix units.
    Target("nvidia-kepler", "NVIDIA Kepler (NVK)", "nouveau", "nouveau", {}, {"NAK_DEBUG": "print"}, nak,
           "registers", "warps per SM"),
    Target("adreno", "Qualcomm Adreno 740 (Turnip)", "freedreno", "freedreno", {"FD_GPU_ID": "740"}, {"IR3_SHADER_DEBUG": "cs"}, ir3,
           "vec4 registers", "waves"),
]
