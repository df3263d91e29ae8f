"""In which order vLLM is woken, given weights, asked and put to sleep."""

from dataclasses import dataclass, field

import pytest

from rl_llm.rollout.vllm_sleep import SleepCycle


@dataclass
class RecordingLlm:
    """Notes its calls, and holds to the rules of vLLM."""

    calls: list = field(default_factory=list)
    awake: set = field(default_factory=lambda: {"weights", "kv_cache"})

    def sleep(self, level):
        assert self.awake == {"weights", "kv_cache"}
        self.awake = set()
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags):
        assert self.awake.isdisjoint(tags)
        self.awake |= set(tags)
        self.calls.append(f"wake {' '.join(tags)}")

    def make_room(self):
        self.calls.append("make room")

    def publish(self):
        assert "weights" in self.awake
        self.calls.append("publish")

    def generate(self):
        assert self.awake == {"weights", "kv_cache"}
        self.calls.append("generate")


@pytest.fixture
def llm():
    return RecordingLlm()


@pytest.fixture
def go(llm):
    """Take an engine's calls, as the engine answers them."""

    def take(*calls, sleeps=True):
        cycle = SleepCycle(llm, sleeps=sleeps, make_room=llm.make_room)
        for call in calls:
            if call == "rest":
                cycle.rest()
            elif call == "publish":
                cycle.wake_to_publish()
                llm.publish()
            else:
                cycle.wake_to_generate()
                llm.generate()
        return llm.calls

    return take


def test_the_weights_wake_to_be_published_into_and_the_cache_to_generate_each_into_made_room(go):
    assert go("publish", "generate", "rest", "publish", "generate", "generate", "rest") == [
        *("publish", "generate", "sleep 1"),
        *("make room", "wake weights", "publish"),
        *("make room", "wake kv_cache", "generate", "generate", "sleep 1"),
    ]


def test_what_generates_again_without_new_weights_wakes_whole(go):
    woken = ["make room", "wake weights", "wake kv_cache"]
    assert go("rest", "generate") == ["sleep 1", *woken, "generate"]


def test_what_sleeps_is_not_put_to_sleep_again_also_where_a_part_is_awake(go, llm):
    go("rest", "rest", "publish", "rest", "publish", "rest")
    assert llm.calls == ["sleep 1", "make room", "wake weights", "publish", "publish"]
    assert llm.awake == {"weights"}


def test_an_engine_that_keeps_its_memory_is_never_put_to_sleep(go):
    assert go("generate", "rest", "publish", sleeps=False) == ["generate", "publish"]


def test_what_could_not_be_woken_is_still_asleep(llm, monkeypatch):
    cycle = SleepCycle(llm, sleeps=True, make_room=llm.make_room)
    cycle.rest()
    with monkeypatch.context() as failing:
        failing.setattr(llm, "wake_up", lambda tags: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cycle.wake_to_generate()
    cycle.wake_to_generate()
    assert llm.calls == ["sleep 1", "make room", "make room", "wake weights", "wake kv_cache"]
