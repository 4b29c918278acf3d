"""Compiles every Triton kernel for three generations of GPUs, and reads the machine code.

No GPU is needed. The command prints registers, spills, shared memory, matrix instructions, and the widths of loads and
stores. A kernel whose widest load or store is below 64 bits is marked as narrow. The exit status is 1 if a kernel
spills registers, or asks for more shared memory than the GPU has.
"""

from __future__ import annotations

import collections
import importlib
import importlib.util
import re
import subprocess
import tempfile
from pathlib import Path

from bench.options import command_parser
from bench.record import Record, record

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Largest shared memory of a block of threads, bytes, by architecture; larger kernels do not start.

Source: CUDA C++ Programming Guide, technical specifications per compute capability.
"""


def compile_kernel(kernel, types: list[str], constants: dict, warps: int, arch: int) -> dict:
    """Compiles one kernel; returns the code of every stage, "ttir" to "cubin", and "shared", bytes.

    The compiler may assume that pointers and integers are multiples of 16, which is true of real pointers.

    Args:
        kernel: a function under `triton.jit`.
        types: Triton's types of the runtime arguments, such as "*fp32".
        constants: values of the compile-time arguments.
        warps: warps of a block of threads.
        arch: compute capability, times 10.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[names.index(name)] for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(types) if t[0] in "*i"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", arch, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    return {**compiled.asm, "shared": compiled.metadata.shared}


def read_code(cubin: bytes) -> dict:
    """Counts registers, stack bytes, spills, matrix instructions, and loads and stores by width in bits."""
    triton = importlib.util.find_spec("triton")
    assert triton and triton.origin, "Triton is a dependency of fastmim"
    tool = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run([tool, option, file.name], check=True, capture_output=True, text=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    counts = {key: int(re.findall(rf"\b{key}:(\d+)", usage)[0]) for key in ("REG", "STACK", "LOCAL")}
    widths: dict[str, collections.Counter] = {"LDG": collections.Counter(), "STG": collections.Counter()}
    for instruction, modifiers in re.findall(r"\b(LDG|STG)(?:STS)?\.([\w.]+)", sass):
        size = next(
            (int(m.strip("US")) for m in modifiers.split(".") if m in ("U8", "S8", "U16", "S16", "64", "128")), 32
        )
        widths[instruction][size] += 1
    spills = len(re.findall(r"\b(?:LDL|STL)\b", sass))
    return {
        "registers": counts["REG"],
        "stack": counts["STACK"] + counts["LOCAL"],
        "spills": spills,
        "mma": len(re.findall(r"\b(?:UTC)?[HQ]G?MMA\b", sass)),
        "loads": dict(sorted(widths["LDG"].items())),
        "stores": dict(sorted(widths["STG"].items())),
    }


def main(argv: list[str] | None = None) -> int:
    """Runs `python -m bench compile`; returns the exit status."""
    import fastmim_kernels

    parser = command_parser("compile", __doc__)
    parser.add_argument("--op", choices=list(fastmim_kernels.OPS), metavar="OP", help="this op only")
    parser.add_argument(
        "--arch",
        type=int,
        nargs="*",
        choices=SHARED_MEMORY,
        default=list(SHARED_MEMORY),
        help="compute capabilities, times 10 (default: all)",
    )
    parser.add_argument("--record", action=Record)
    args = parser.parse_args(argv)
    print(
        f"{'op':<28}{'kernel':<36}{'sm':>4}{'regs':>6}{'stack':>6}{'spills':>7}{'shared':>7}{'mma':>5}"
        "  loads / stores {bits: count}"
    )
    spilled = too_large = 0
    for name in [args.op] if args.op else fastmim_kernels.OPS:
        module = importlib.import_module(f"fastmim_kernels.{name}.cuda")
        for label, kernel, types, constants, warps in module.compile_only():
            for arch in args.arch:
                compiled = compile_kernel(kernel, types, constants, warps, arch)
                code = {"shared": compiled["shared"], **read_code(compiled["cubin"])}
                spills = bool(code["spills"] or code["stack"])
                spilled += spills
                large = code["shared"] > SHARED_MEMORY[arch]
                too_large += large
                widths = (("registers", 6), ("stack", 6), ("spills", 7), ("shared", 7), ("mma", 5))
                numbers = "".join(f"{code[key]:>{width}}" for key, width in widths)
                access = f"{code['loads']} / {code['stores']}"
                marks = "  spills" if spills else ""
                marks += f"  above {SHARED_MEMORY[arch]:,}" if large else ""
                marks += "  narrow" if min(max(code[key], default=64) for key in ("loads", "stores")) < 64 else ""
                print(f"{name:<28}{label:<36}{arch:>4}{numbers}  {access}{marks}", flush=True)
                if args.record:
                    widest = {f"widest_{key}": max(code.pop(key), default=0) for key in ("loads", "stores")}
                    found = {"case": f"{name}, {label}, sm_{arch}", "op": name, "kernel": label, "arch": arch}
                    record({"device": "cpu"} | found | code | widest, "compile")
    print(f"{spilled} kernels spill, {too_large} ask for too much shared memory")
    return 1 if spilled or too_large else 0
