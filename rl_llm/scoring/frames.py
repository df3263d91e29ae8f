"""What the trainer and a worker say to each other: a length, and then as many bytes.

The trainer sends pickles; a worker answers in JSON, so that nothing a reward leaves behind can run
code in the trainer, and numbers come back exactly.
"""

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from rl_llm.scoring.reward import Failure, Outcome

_LENGTH = struct.Struct(">Q")
_MAX_BYTES = 1 << 30


def frame(body: bytes) -> bytes:
    """Return the bytes that say `body`."""
    return _LENGTH.pack(len(body)) + body


def take_frame(received: bytearray) -> bytes | None:
    """Take the first whole frame out of what was received; None while there is none.

    Raises `ValueError` for a length that nobody would send.
    """
    if len(received) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(received)
    if length > _MAX_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    end = _LENGTH.size + length
    if len(received) < end:
        return None
    body = bytes(received[_LENGTH.size : end])
    del received[:end]
    return body


def wait_for_frame(channel: socket.socket) -> bytes | None:
    """Return the next frame, however long it takes; None when the other side is gone."""
    received = bytearray()
    while (body := take_frame(received)) is None:
        data = channel.recv(1 << 16)
        if not data:
            return None
        received += data
    return body


def answer(**said: Any) -> bytes:
    """Return the frame of a worker's answer."""
    return frame(json.dumps(said).encode())


def outcomes_to_json(outcomes: Sequence[Outcome]) -> list[Any]:
    """Return what `outcomes_from_json` makes the outcomes of again."""
    return [
        {"kind": each.kind, "message": each.message} if isinstance(each, Failure) else each
        for each in outcomes
    ]


def outcomes_from_json(said: Sequence[Any]) -> list[Outcome]:
    """Return the outcomes that a worker sent."""
    return [_outcome(each) for each in said]


def _outcome(said: Any) -> Outcome:
    if isinstance(said, Mapping):
        return Failure(message=str(said["message"]), kind=said["kind"])
    return tuple(map(float, said)) if isinstance(said, list) else said
