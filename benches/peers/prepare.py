"""Installs what the peers need, each in a folder of its own below `~/.cache/windkessel-peers`: `prepare.py [PEER…]`, by default all.

A folder's name carries a hash of what it was made from, so that another pinned version makes another folder.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from harness import CACHE, UnavailableError, maven

INSTALLED = CACHE / "windkessel-peers"
PYTHON = ("plain_python", "best_python", "duckdb", "bytewax")
JAVA = ("flink",)


def folder_of(peer: str, *made_from: Path) -> Path:
    content = b"".join(path.read_bytes() for path in made_from)
    return INSTALLED / f"{peer}-{hashlib.sha256(content).hexdigest()[:12]}"


def python(peer: str) -> Path:
    """The interpreter of a peer's environment."""
    requirements = HERE / peer / "requirements.txt"
    folder = folder_of(peer, requirements)
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").exists():
        for command in (
            [sys.executable, "-m", "venv", "--clear", folder],
            [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements],
        ):
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise UnavailableError(f"the environment of {peer} could not be made: {done.stderr[-500:]}")
        (folder / "complete").touch()
    return interpreter


def java(peer: str) -> str:
    """The class path of a peer's program: its own classes and the jars."""
    pom, source = HERE / peer / "pom.xml", HERE / peer / "Job.java"
    jars, classes = folder_of(f"{peer}-jars", pom), folder_of(f"{peer}-classes", pom, source)
    if not (jars / "complete").exists():
        maven(pom, jars)
        (jars / "complete").touch()
    if not (classes / "complete").exists():
        classes.mkdir(parents=True, exist_ok=True)
        command = ["javac", "-nowarn", "-cp", f"{jars}/*", "-d", str(classes), str(source)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise UnavailableError("javac is needed (Debian: openjdk-17-jdk-headless)") from error
        if done.returncode != 0:
            raise UnavailableError(f"{peer} does not compile: {done.stderr[-2_000:]}")
        (classes / "complete").touch()
    return f"{classes}:{jars}/*"


def main() -> None:
    for peer in sys.argv[1:] or (*PYTHON, *JAVA):
        if peer in PYTHON:
            print(python(peer))
        elif peer in JAVA:
            print(java(peer))
        else:
            sys.exit(f"no such peer: {peer}; there are {', '.join((*PYTHON, *JAVA))}")


if __name__ == "__main__":
    try:
        main()
    except UnavailableError as error:
        sys.exit(f"prepare: {error}")
