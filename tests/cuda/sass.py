"""What nvcc made of the kernels, by the instructions in the library: ``python -m tests.cuda.sass LIBRARY``.

A kernel compiled for too old an architecture, or one that keeps its sums in memory, is right and slow; a trap ends it on the
device only. This reads the machine code with cuobjdump (a part of CUDA, or of the package nvidia-cuda-cuobjdump) and refuses
such libraries.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

ARCHITECTURE = re.compile(r"arch = sm_(\d+)")  # 90a counts as 90
FUNCTION = re.compile(r"Function : (\S+)")
INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")

# Products keep their sums in registers: in a kernel whose name has all parts these instructions must be there, and none may
# touch local memory.
EXPECTED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("multiply_words", "HalfGemm", "Bf16"): ("HMMA", "LDSM"),
    ("multiply_words", "HalfGemm", "F16"): ("HMMA", "LDSM"),
    ("multiply_words", "Bf16Conv"): ("HMMA", "LDSM"),
    ("multiply_words", "Bf16GradWeight"): ("HMMA", "LDSM"),
    ("multiply_words", "Tf32"): ("HMMA", "LDSM", "LDGSTS"),
    ("multiply_words", "QGemm"): ("IMMA", "LDSM"),
    ("multiply_words", "QConv"): ("IMMA", "LDSM"),
    ("multiply_tile", "If"): ("FFMA",),
    ("multiply_tile", "Id"): ("DFMA",),
    ("mlp_tile",): ("FFMA", "LDGSTS"),
    ("sum_param_grads",): ("FFMA",),
    ("finish_param_grads",): ("FADD",),
}
# The same on Hopper, whose own family is empty elsewhere.
HOPPER: dict[tuple[str, ...], tuple[str, ...]] = {
    ("multiply_by_warpgroups", "HalfGemm", "Bf16"): ("HGMMA", "UTMALDG", "SYNCS", "USETMAXREG"),
    ("multiply_by_warpgroups", "HalfGemm", "F16"): ("HGMMA", "UTMALDG", "SYNCS", "USETMAXREG"),
    ("multiply_by_warpgroups", "Bf16Conv"): ("HGMMA", "UTMALDG", "SYNCS", "USETMAXREG"),
    ("multiply_by_warpgroups", "QGemm"): ("IGMMA", "UTMALDG", "SYNCS", "USETMAXREG"),
    ("multiply_by_warpgroups", "QConv"): ("IGMMA", "UTMALDG", "SYNCS", "USETMAXREG"),
}
MOST_LOCAL = 16  # loads and stores of local memory elsewhere: registers saved around a call seldom made


def find_cuobjdump() -> str | None:
    """The path of cuobjdump, or None."""
    if tool := shutil.which("cuobjdump"):
        return tool
    spec = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.cu13")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((str(tool) for f in folders if (tool := Path(f) / "bin" / "cuobjdump").exists()), None)


Counts = dict[tuple[int, str], "Counter[str]"]  # of an architecture's kernels


def instructions(cuobjdump: str, library: Path) -> Counts:
    """How often each instruction stands in each kernel of a library, for each architecture."""
    path = f"{Path(cuobjdump).parent}{os.pathsep}{os.environ['PATH']}"  # nvdisasm lies beside it
    counts: Counts = defaultdict(Counter)
    architecture, kernel = 0, ""
    command = [cuobjdump, "-sass", str(library)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": path}
    ) as process:
        for line in process.stdout or ():
            if found := ARCHITECTURE.search(line):
                architecture = int(found[1])
            elif found := FUNCTION.search(line):
                kernel = found[1]
            elif found := INSTRUCTION.match(line):
                counts[architecture, kernel][found[1]] += 1
    return counts


def complaints(counts: Counts) -> list[str]:
    """What is wrong with kernels; empty if nothing is. Turing multiplies bytes on tensor cores only, and never tf32."""
    found = []
    for architecture in sorted({architecture for architecture, _ in counts}):
        kernels = [kernel for at, kernel in counts if at == architecture]
        found += [
            f"sm_{architecture}: no kernel is like {' '.join(names)}"
            for names in _expected(architecture)
            if not any(_like(kernel, names) for kernel in kernels)
        ]
    for (architecture, kernel), count in counts.items():
        expected = [needed for names, needed in _expected(architecture).items() if _like(kernel, names)]
        at = f"sm_{architecture}: {kernel}"
        modern = architecture >= 80
        if modern:
            found += [f"{at} has no {name}" for needed in expected for name in needed if not count[name]]
        local = count["LDL"] + count["STL"]
        if local > (0 if expected and modern else MOST_LOCAL):
            found.append(f"{at} reads or writes local memory in {local} places")
        if count["BPT"] and (modern or "Tf32" not in kernel):
            found.append(f"{at} ends in a trap")
    return found


def _expected(architecture: int) -> dict[tuple[str, ...], tuple[str, ...]]:
    return EXPECTED | (HOPPER if architecture == 90 else {})


def _like(kernel: str, names: tuple[str, ...]) -> bool:
    return all(name in kernel for name in names)


def main(library: Path) -> int:
    """Prints what is wrong; returns the exit status."""
    if not (cuobjdump := find_cuobjdump()):
        sys.stdout.write("cuobjdump is not there: instructions are not looked at\n")
        return 0
    counts = instructions(cuobjdump, library)
    found = complaints(counts)
    sys.stdout.write(
        "".join(f"{line}\n" for line in found) or f"{len(counts)} kernels have the instructions they should\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
