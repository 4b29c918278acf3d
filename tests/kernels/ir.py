"""Reader of Triton's IR: follows values through loops and branches, and finds narrow offsets."""

import re
from collections.abc import Callable
from typing import NamedTuple

NAME = re.compile(r"%[\w$.-]+(?:#\d+)?")
REGIONS = ("module", "tt.func", "scf.for", "scf.if", "tt.reduce", "tt.scan")
UNKNOWN = ("tt.get_program_id", "tt.get_num_programs", "tt.load", "tt.atomic_rmw", "counter")
GROWS = ("arith.muli", "arith.shli", "tt.reduce", "tt.scan")
SUMS = ("arith.addi", "arith.subi")
EXTENDS = ("arith.extsi", "arith.extui")
ROUNDS = ("arith.fptosi", "arith.fptoui")


class Value(NamedTuple):
    operation: str
    sources: list[str]
    type: str


class Region(NamedTuple):
    """Part of the code in braces. Its names are valid until it ends."""

    operation: str
    names: dict[str, str]
    results: list[str]
    """Values that `scf.yield` passes on: to the next round of a loop, then to the whole operation."""


def lower(kernel, types: list[str], constants: dict, warps: int) -> str:
    """Returns a kernel in Triton's IR for sm_90, without the later, slow stages of `python -m bench compile`."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend

    names, target, stages = kernel.arg_names, GPUTarget("cuda", 90, 32), {}
    signature = {name: "constexpr" if name in constants else types[names.index(name)] for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types) if kind[0] in "*i"}
    source, backend = ASTSource(kernel, signature, constants, aligned), make_backend(target)
    options, context = backend.parse_options({"num_warps": warps}), ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(options)
    module = source.make_ir(target, options, functions, backend.get_module_map(), context)
    backend.add_stages(stages, options, source.language)
    return str(stages["ttir"](module, {}))


def definitions(code: str) -> dict[str, Value]:
    """Returns every value of a kernel by a unique name, since adjacent regions reuse names.

    Arguments are no values.

    Raises:
        ValueError: the code has an unknown region, call or jump, or an address that is no sum of a pointer and offsets,
            such as that of a tensor descriptor.
    """
    values: dict[str, Value] = {}
    regions: list[Region] = []

    def define(region: Region, name: str, value: Value) -> str:
        region.names[name] = f"{name}@{len(values)}"
        values[region.names[name]] = value
        return region.names[name]

    def resolve(name: str) -> str:
        return next((region.names[name] for region in reversed(regions) if name in region.names), name)

    for line in code.splitlines():
        line = re.sub(r" loc\((?:[^()]|\([^()]*\))*\)", "", line).strip()
        if line.startswith("}"):
            last = regions.pop()
            if line.endswith("else {"):
                regions.append(last._replace(names={}))
            if last.operation in ("tt.reduce", "tt.scan"):
                for name in last.results:
                    values[name] = values[name]._replace(type=line.rsplit("-> ", 1)[1])
            continue
        found = re.match(r'(?:(%[\w$.-]+)(?::(\d+))? = )?"?([a-z]+[.\w]*)"?(.*)', line)
        if found is None:
            continue
        name, count, operation, rest = found.groups()
        if operation.startswith(("cf.", "tt.call")) or (rest.endswith("{") and operation not in REGIONS):
            raise ValueError(f"values are not followed through {operation}: {line}")
        if "!tt.tensordesc" in rest or "!tt.ptr<tensor" in rest or operation == "tt.int_to_ptr":
            raise ValueError(f"addresses of {operation} are not followed: {line}")
        sources = [resolve(source) for source in NAME.findall(rest)]
        if operation == "scf.yield":
            for k, source in enumerate(sources):
                for result in regions[-1].results[k :: len(sources)]:
                    values[result].sources.append(source)
            continue
        region = Region(operation, {}, [])
        types = [rest.rsplit(" : ", 1)[-1]]
        if operation in ("scf.for", "scf.if"):
            types, sources = rest.split("-> (")[-1].split(")")[0].split(", "), []
        if operation == "scf.for":
            define(region, NAME.findall(rest)[0], Value("counter", [], rest.rsplit(": ", 1)[1].removesuffix(" {")))
            carried = re.findall(rf"({NAME.pattern}) = ({NAME.pattern})", rest.partition("iter_args(")[2])
            sources = [resolve(start) for _, start in carried]
            for (inner, _), source, type_ in zip(carried, sources, types, strict=False):
                region.results.append(define(region, inner, Value(operation, [source], type_)))
        results = [name] if name else []
        if count:
            results = [f"{name}#{k}" for k in range(int(count))]
        for k, result in enumerate(results):
            own = sources[k : k + 1] if operation == "scf.for" else sources
            region.results.append(define(regions[-1], result, Value(operation, list(own), types[k % len(types)])))
        if rest.endswith("{"):
            regions.append(region)
    return values


def narrow_offsets(code: str, sizes: bool = True) -> set[str]:
    """Returns the arguments of a kernel, in Triton's IR, whose offsets might pass 2^31 in 32 bits.

    An offset might pass 2^31 if it has 32 bits from the start of the tensor, or if it was converted from a float. The
    same is true if it was computed in 32 bits from a product or shift of more than constants and ranges, from a running
    sum of a loop, or from truncated 64 bits. Without `sizes`, a product of only arguments, constants and ranges counts
    as small.
    """
    values = definitions(code)

    def tree(name: str, enter: Callable[[str], bool]) -> set[str]:
        """Returns a value and the values it is made from, as far as `enter` admits them."""
        found, todo = set(), [name]
        while todo:
            if (name := todo.pop()) in values and name not in found and enter(name):
                found.add(name)
                # A loaded value or a comparison is not as large as its address or its operands.
                todo += [] if values[name].operation in ("tt.load", "arith.cmpi") else values[name].sources
        return found

    def is_wide(name: str) -> bool:
        return re.search(r"\bi64$|xi64>$", values[name].type) is not None

    def is_constant(name: str) -> bool:
        made_from = [values[v] for v in tree(name, lambda v: True)]
        return not any(v.operation in UNKNOWN or sizes and any(s not in values for s in v.sources) for v in made_from)

    def grows(name: str) -> bool:
        """Returns True if a value has no small bound.

        Such a value grows with several indices or arguments, with the rounds of a loop, or comes from 64 bits.
        """
        operation, sources, type_ = values[name]
        if operation in GROWS:
            return not is_constant(name)
        if operation == "arith.trunci":
            return "i64" in type_.split(" to ")[0]
        return operation in SUMS and any(name in tree(source, lambda v: True) for source in sources)

    def wraps(name: str) -> bool:
        return any(grows(v) for v in tree(name, lambda v: not is_wide(v)))

    def origins(pointer: str, follows: bool, seen: set) -> set[tuple[str, bool]]:
        """Returns the arguments that a pointer may come from, each with True if a 64-bit offset comes before."""
        if pointer not in values:
            return {(pointer.removeprefix("%"), follows)}
        if (pointer, follows) in seen:
            return set()
        seen.add((pointer, follows))
        operation, sources, type_ = values[pointer]
        if operation == "tt.addptr":
            sources, follows = sources[:1], follows or "i64" in type_.rsplit(",", 1)[1]
        elif operation == "arith.select":
            sources = sources[1:]
        return set().union(*(origins(source, follows, seen) for source in sources))

    found = set()
    for operation, sources, type_ in list(values.values()):
        if operation != "tt.addptr":
            continue
        pointer, offset = sources
        arguments = origins(pointer, False, set())
        is_narrow = "i64" not in type_.rsplit(",", 1)[1]
        made_from = tree(offset, lambda v: True)
        extended = [values[v].sources[0] for v in made_from if values[v].operation in EXTENDS]
        if any(map(wraps, [offset, *extended])) or any(values[v].operation in ROUNDS for v in made_from):
            found |= {name for name, _ in arguments}
        elif is_narrow:
            found |= {name for name, follows in arguments if not follows}
    return found
