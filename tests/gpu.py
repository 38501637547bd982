"""The CUDA engine's check in one command: ``python -m tests.gpu`` builds its library and runs the op tests on it.

With a GPU the library is compiled by nvcc for that GPU, its instructions are looked at (tests/cuda/sass.py),
compute-sanitizer, if found, looks at a part of the tests, and ``bench.cuda`` writes bench/RESULTS-cuda.md. Without one, or
with ``--emulated``, the same kernels are compiled for the CPU and run there, thread by thread. What follows ``--`` goes to
pytest in place of the chosen tests; then nothing is measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cuda import sass

ROOT = Path(__file__).resolve().parent.parent

# Not here: algorithms and formats that CUDA does not have, and what is about the CPU's memory.
TESTS = ["tests/ops", "tests/optim", "tests/cuda", "tests/test_losses.py", "tests/test_jit.py"]
IGNORED = [
    f"tests/{name}.py"
    for name in (
        *(
            "ops/test_conv_winograd",
            "ops/test_conv_winograd_strided",
            "ops/test_sparse",
            "ops/test_sparse_api",
        ),
        *("ops/test_shape_rules_api", "ops/test_recurrent", "ops/test_recurrent_api", "ops/test_attention"),
        *("ops/test_attention_cache", "ops/test_ctc", "ops/test_embedding_bag", "optim/test_row_gradients"),
    )
]
SANITIZED = [
    "tests/ops/test_matmul.py",
    "tests/ops/test_conv.py",
    "tests/ops/test_softmax.py",
    "tests/ops/test_quant.py",
]


def has_gpu() -> bool:
    """Whether a driver answers and names a GPU."""
    if not (tool := shutil.which("nvidia-smi")):
        return False
    done = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and "GPU" in done.stdout


def build(emulated: bool, architectures: str, werror: bool) -> Path:
    """Configures and compiles the library; returns its path."""
    folder = ROOT / "build" / ("cuda-emulated" if emulated else "cuda")
    options = [
        f"-DQUERNEL_CUDA_EMULATED={'ON' if emulated else 'OFF'}",
        f"-DQUERNEL_WERROR={'ON' if werror else 'OFF'}",
    ]
    if not emulated:
        options.append(f"-DQUERNEL_CUDA_ARCHITECTURES={architectures}")
    configure = ["cmake", "-S", str(ROOT / "cuda"), "-B", str(folder), *options]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 1)], check=True)
    return folder / f"libquernel_cuda{'_emulated' if emulated else ''}.so"


def test(library: Path, emulated: bool, arguments: list[str], wrapper: list[str]) -> int:
    """Runs pytest on the library, under another program if one is given; returns the exit status."""
    env = os.environ | {"QUERNEL_CUDA_LIBRARY": str(library), "QUERNEL_TEST_DEVICE": "cuda"}
    if emulated:
        env.setdefault("HYPOTHESIS_PROFILE", "emulated")
    command = [*wrapper, sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


def bench(library: Path) -> int:
    """Measures the library beside torch; returns the exit status."""
    env = os.environ | {"QUERNEL_CUDA_LIBRARY": str(library)}
    command = [sys.executable, "-m", "bench.cuda", "--page", "bench/RESULTS-cuda.md"]
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


def main() -> int:
    """Builds, tests and measures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--emulated", action="store_true", help="on the CPU, whether or not there is a GPU")
    parser.add_argument("--build-only", action="store_true", help="compile, run nothing")
    parser.add_argument(
        "--arch", default="native", help="GPUs to compile for, as CMake names them (default: this one)"
    )
    parser.add_argument("--werror", action="store_true", help="treat warnings as errors")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    args = parser.parse_args()
    emulated = args.emulated or (not has_gpu() and not args.build_only)
    library = build(emulated, args.arch, args.werror)
    status = 0 if emulated else sass.main(library)
    if args.build_only:
        return status
    chosen = args.pytest or [*TESTS, *(f"--ignore={name}" for name in IGNORED)]
    status |= test(library, emulated, chosen, [])
    if not emulated and (sanitizer := shutil.which("compute-sanitizer")):
        for tool in ("memcheck", "racecheck"):
            wrapper = [sanitizer, "--tool", tool, "--error-exitcode", "1", "--target-processes", "all"]
            status |= test(library, emulated, [*SANITIZED, "-x"], wrapper)
    if not (status or emulated or args.pytest):
        status = bench(library)
    return status


if __name__ == "__main__":
    sys.exit(main())
