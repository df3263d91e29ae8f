"""The process of one attempt, as the system sees it."""

import io
import json
import os
import sys
from dataclasses import asdict

import pytest

from rl_llm.hub import Outcome
from rl_llm.hub.attempt import Attempt
from rl_llm.hub.child import main


@pytest.mark.parametrize(("is_behind", "niceness"), [(True, [10]), (False, [])])
def test_a_push_behind_a_run_leaves_the_processors_to_it(job, monkeypatch, is_behind, niceness):
    order = {"job": asdict(job()), "limit_s": None, "is_behind": is_behind}
    asked = []
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(order)))
    monkeypatch.setattr(os, "nice", asked.append)
    monkeypatch.setattr("rl_llm.hub.upload.upload", lambda job: Outcome(url="somewhere"))
    main()
    assert asked == niceness


def test_ctrl_c_which_goes_to_the_group_of_the_run_does_not_reach_a_push(job, monkeypatch):
    monkeypatch.setattr("rl_llm.hub.attempt._PROGRAM", "import sys; sys.stdin.read()")
    attempt = Attempt(job(), limit_s=None, is_behind=False)
    group = os.getpgid(attempt._process.pid)
    attempt.stop()
    attempt.outcome()
    assert group != os.getpgrp()
