# SPDX-License-Identifier: Apache-2.0
"""sika.py - `sika image` as tests have it. The program is the test's first argument."""
import os
import sys

from commands import Failure, run

SIKA = os.path.abspath(sys.argv[1])


def image(*arguments, status=0):
    """What it prints."""
    return run(SIKA, "image", *arguments, status=status).stdout


def refused(*arguments, words=(), status=(1, 2)):
    """It fails by one sentence, on one line, that has these words: what the user gave. The sentence."""
    done = run(SIKA, "image", *arguments, status=status)
    lines = done.stderr.strip().splitlines()
    words = (words,) if isinstance(words, str) else words
    if len(lines) != 1 or len(lines[0]) >= 400 or not all(w in lines[0] for w in words):
        raise Failure(f"{arguments}, wanted {words}: {done.stderr}")
    return lines[0]
