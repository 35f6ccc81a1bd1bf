"""What the two scripts beside it have in common: cases from standard input, and the greatest deviation of each figure from each package.

A deviation is relative to a value above 1. One greater than LIMIT, or no case at all, ends the script with 1.
"""

import json
import sys

LIMIT = 1e-9


def compare(packages, arguments):
    """Each line is one case; `arguments` makes of it what every package is called with, `ours` in it is what Windkessel says by name."""
    worst, cases = {}, 0
    for line in sys.stdin:
        case = json.loads(line)
        cases += 1
        for package in packages:
            for name, theirs in package(*arguments(case)).items():
                ours = case["ours"][name]
                if ours is None:
                    sys.exit(f"{name}: Windkessel has none, {package.__name__} {theirs} in case {cases}")
                deviation = abs(ours - float(theirs)) / max(1.0, abs(float(theirs)))
                key = f"{package.__name__.removesuffix('_says')} {name}"
                worst[key] = max(worst.get(key, 0.0), deviation)
    for key, deviation in sorted(worst.items()):
        print(f"{key:<36} {deviation:.1e}")
    print(f"{cases} cases")
    if cases == 0 or max(worst.values()) > LIMIT:
        sys.exit(f"a figure deviates by more than {LIMIT}")
