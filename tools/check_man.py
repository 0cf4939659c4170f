#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_man.py - each option in --help is in the manual and in the shells' completions, and no other.

usage: check_man.py SIKA
"""
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGES = {"sika-run.1": ["run"],
         "sika-image.1": ["image", "image create", "image info", "image check",
         "image convert", "image resize", "image snapshot", "image bitmap", "image rebase", "image commit",
         "image map", "image compare", "image measure", "image bench", "image serve", "image build"], "sika-engines.1": ["engines"],
         "sika-bt-stats.1": ["bt-stats"], "sika-resize.1": ["resize"],
         "sika-status.1": ["status", "resume"],
         "sika-disk-stats.1": ["disk-stats"], "sika-kvm-stat.1": ["kvm-stat"]}
OPTION = re.compile(r"^ +(--[a-z-]+)", re.M)
# .It Fl -kernel Ar FILE: a dash of the option is the macro's.
IN_MANUAL = re.compile(r"^\.It Fl -([a-z-]+)", re.M)


def read(*parts):
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as f:
        return f.read()


# How each shell's completion names an option.
COMPLETIONS = {
    "sika.bash": re.compile(r"(--[a-z][a-z-]*)"),
    "sika.zsh": re.compile(r"'\*?(--[a-z-]+)[=\[]"),
    "sika.fish": re.compile(r"^complete.* -l ([a-z-]+)", re.M),
}


def check_completions(everything):
    """No shell offers what no verb takes, and each can read its file."""
    wrong = []
    for name, pattern in COMPLETIONS.items():
        found = {"--" + o.lstrip("-") for o in pattern.findall(read("tools", "completion", name))}
        wrong += [f"{name}: {o} does not exist" for o in
                  sorted(found - everything - {"--help", "--version"})]
        wrong += [f"{name}: {o} is not completed" for o in sorted(everything - found)]
        shell = shutil.which(name.split(".")[1])
        path = os.path.join(ROOT, "tools", "completion", name)
        if shell and subprocess.run([shell, "-n", path], check=False).returncode:
            wrong.append(f"{name}: {shell} cannot read it")
    return wrong


def main():
    passed = failed = 0
    everything = set()
    for page, verbs in PAGES.items():
        texts = [subprocess.run([sys.argv[1], *verb.split(), "--help"], check=True, capture_output=True,
                                text=True).stdout for verb in verbs]
        text = "\n".join(texts)
        offered = set(OPTION.findall(text))
        explained = {"--" + o for o in IN_MANUAL.findall(read("man", page))} - {"--help"}
        wrong = [f"{page}: {o} is not explained" for o in sorted(offered - explained)]
        wrong += [f"{page}: {o} does not exist" for o in sorted(explained - offered)]
        everything |= offered
        for lines in (t.splitlines() for t in texts):
            if len(lines) > 24 or max(map(len, lines)) > 80:
                wrong.append(f"{page}: --help does not fit a screen of 80 by 24: {lines[0]}")
        print("\n".join(wrong) if wrong else f"{page}: {len(offered)} options")
        passed, failed = passed + (not wrong), failed + bool(wrong)
    wrong = check_completions(everything)
    print("\n".join(wrong) if wrong else f"completions: {len(everything)} options")
    passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


sys.exit(main())
