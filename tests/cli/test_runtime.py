"""What the command line asks of the process before torch loads."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from rl_llm.cli import runtime
runtime.let_idle_threads_sleep()
print(os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("active", "active")])
def test_idle_threads_sleep_unless_the_user_says_otherwise(given, expected):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [expected]


FITTING = """
import json, sys
from rl_llm.cli import runtime
runtime.print_all_that_fits()
print(json.dumps(json.loads(sys.argv[1]), ensure_ascii=False))
"""


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", b'"a ? \xff ?"\n'),
        ("latin-1", b'"a ? \xff \xe9"\n'),
        ("utf-8:strict", b'"a ? \xff \xc3\xa9"\n'),
        ("utf-8:backslashreplace", b'"a \\ud800 \\udcff \xc3\xa9"\n'),
    ],
)
def test_what_the_encoding_lacks_is_a_question_mark_and_names_keep_their_bytes(encoding, printed):
    done = subprocess.run(
        [sys.executable, "-c", FITTING, r'"a \ud800 \udcff \u00e9"'],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert done.stdout == printed


FAULTS = """
import ctypes, resource, sys
from rl_llm.cli import runtime
import numpy
if sys.argv[1] == "kept":
    runtime.keep_freed_memory()
numpy.ones(2**21)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    numpy.ones(2**21)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's C library")
def test_a_freed_block_is_used_again_without_new_pages():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, how],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for how in ("given back", "kept")
    }
    assert faults["kept"] < faults["given back"] / 5


def test_a_warning_carries_its_tag_and_is_dropped_where_it_is_not_to_be_heard():
    program = """\
import logging
from rl_llm.cli.runtime import tag_warnings, warnings_heard
log = logging.getLogger("rl_llm.x")
tag_warnings("rank 1: ")
for is_heard in (True, False):
    with warnings_heard(is_heard):
        log.warning("heard: %s", is_heard)
log.warning("behind")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "rank 1: heard: True\nrank 1: behind\n"
