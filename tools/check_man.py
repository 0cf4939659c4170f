#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_man.py - each option in --help is in the manual and in the completion, and no other.

usage: check_man.py SIKA
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGES = {"sika-run.1": ["run"], "sika-image.1": ["image"], "sika-engines.1": ["engines"],
         "sika-bt-stats.1": ["bt-stats"]}
OPTION = re.compile(r"^ +(--[a-z-]+)", re.M)
# .It Fl -kernel Ar FILE: a dash of the option is the macro's.
IN_MANUAL = re.compile(r"^\.It Fl -([a-z-]+)", re.M)


def read(*parts):
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as f:
        return f.read()


def main():
    passed = failed = 0
    completion = read("tools", "completion", "sika.bash")
    for page, verb in PAGES.items():
        text = subprocess.run([sys.argv[1], *verb, "--help"], check=True, capture_output=True,
                              text=True).stdout
        lines = text.splitlines()
        offered = set(OPTION.findall(text))
        explained = {"--" + o for o in IN_MANUAL.findall(read("man", page))} - {"--help"}
        wrong = [f"{page}: {o} is not explained" for o in sorted(offered - explained)]
        wrong += [f"{page}: {o} does not exist" for o in sorted(explained - offered)]
        wrong += [f"sika.bash: {o} is not completed" for o in sorted(offered)
                  if not re.search(rf"{o}(?![\w-])", completion)]
        if len(lines) > 24 or max(map(len, lines)) > 80:
            wrong.append(f"{page}: --help does not fit a screen of 80 by 24")
        print("\n".join(wrong) if wrong else f"{page}: {len(offered)} options")
        passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


sys.exit(main())
