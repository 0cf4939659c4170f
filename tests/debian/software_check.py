# SPDX-License-Identifier: Apache-2.0
"""software_check.py - one check of software.py."""
from dataclasses import dataclass


def no_files():
    return ()


@dataclass
class Check:
    name: str
    script: str
    same: bool = False  # the host prints the same
    programs: tuple = ()  # which the host needs for that
    version: str = ""  # a script: what it prints must be equal before the outputs can be
    bad: str = ""  # a regular expression that must not be in the output
    host_excuses: bool = False  # where it fails it is run on the host, and what fails there too is skipped
    skip: str = ""  # one that says that it cannot be done
    seconds: int = 900
    files: object = no_files
