"""Licences and sources of every crate, as deny.toml allows them. What `cargo deny check licenses bans sources` says, without installing it.

Reads `cargo metadata` with all features; prints each crate that is not allowed and exits 1. It knows SPDX expressions of AND, OR, WITH
and parentheses, and the old spelling "A/B". It does not look into licence files.
"""

import json
import re
import subprocess
import sys
import tomllib

with open("deny.toml", "rb") as file:
    rules = tomllib.load(file)
ALLOWED = set(rules["licenses"]["allow"])
BANNED = {ban["crate"] for ban in rules["bans"]["deny"]}
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def allowed(expression):
    """Evaluates an SPDX expression: a licence is true if it is allowed."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    python, at = [], 0
    while at < len(tokens):
        token = tokens[at]
        if token in ("(", ")"):
            python.append(token)
        elif token in ("AND", "OR"):
            python.append(token.lower())
        else:
            if tokens[at + 1 : at + 2] == ["WITH"]:
                token, at = f"{token} WITH {tokens[at + 2]}", at + 2
            python.append(str(token in ALLOWED))
        at += 1
    return eval(" ".join(python))  # Only True, False, and, or and parentheses.


def faults(package):
    """What is wrong with a crate, in words."""
    if package["source"] is not None and package["source"] != REGISTRY:
        yield f"comes from {package['source']}"
    if package["name"] in BANNED:
        yield "is banned"
    if not package["license"]:
        yield "names no licence"
    elif not allowed(package["license"]):
        yield f"has the licence {package['license']}"


command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
found = [f"{package['name']} {package['version']} {fault}" for package in packages for fault in faults(package)]
print("\n".join(found) or f"{len(packages)} crates, all allowed")
sys.exit(bool(found))
