"""The process of one attempt: a job as JSON on stdin, its outcome as JSON on stdout."""

import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

_NICENESS = 10


def main() -> None:
    """Push what stdin says; the system ends this process after `limit_s`, also where whoever
    started it is gone."""
    asked: dict[str, Any] = json.load(sys.stdin)
    if asked["limit_s"] is not None:
        signal.setitimer(signal.ITIMER_REAL, asked["limit_s"])
    if asked["is_behind"]:
        os.nice(_NICENESS)
    from rl_llm.hub.faults import FAULTS, outcome_of
    from rl_llm.hub.job import Job
    from rl_llm.hub.upload import upload

    job = Job(**asked["job"])
    try:
        outcome = upload(job)
    except FAULTS as error:
        outcome = outcome_of(error, job)
    json.dump(asdict(outcome), sys.stdout)
