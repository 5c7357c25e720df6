"""The policy node's logic without ROS: newest wins, contract first, the same question gets the same answer."""

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from fake_world import FakePolicy

from alam_models.runtime.sampler import Sampler
from alam_policy.server import PolicyServer, Proprioception
from alam_policy.worker import NewestWins
from alam_sim.metaworld_env import metaworld_contract

WAIT_S = 10.0


@dataclass(frozen=True)
class Seen:
    images: Any
    state: Any
    instruction: str
    id: int


class Answers:
    """Collects answers and waits for them; each went out `takes_ns` after its observation."""

    def __init__(self, takes_ns=0):
        self.all, self.takes_ns = [], takes_ns
        self._new = threading.Condition()

    def __call__(self, answer):
        with self._new:
            self.all.append(answer)
            self._new.notify()
        return answer.observation_ns + self.takes_ns

    def wait(self, count):
        with self._new:
            assert self._new.wait_for(lambda: len(self.all) >= count, WAIT_S)
            return self.all


def serve(policy=None, max_skew_s=0.0, takes_ns=0):
    answers = Answers(takes_ns)
    server = PolicyServer(policy or FakePolicy(), Seen, 0, answers, lambda: 1.0, max_skew_s)
    server.activate(True)
    return server, answers


def observe(server, number, stamp_ns, under_way=False, instruction="do it"):
    for role in ("third_person", "wrist"):
        server.add(role, stamp_ns, np.zeros((128, 128, 3), np.uint8))
    server.add("state", stamp_ns, Proprioception(np.zeros(4), instruction, number, under_way))


def test_an_observation_is_answered_once_the_robot_is_known():
    server, answers = serve()
    observe(server, 1, 10)
    assert server.status(1.0).message == "waiting: no contract on /robot/contract yet"
    assert server.robot(metaworld_contract().to_yaml()) == ""
    observe(server, 2, 20)
    answer = answers.wait(1)[0]
    assert (answer.observation_id, answer.observation_ns) == (2, 20)
    assert server.status(1.0).message == "serving"
    assert server.stop()


def test_the_same_observation_again_gets_the_same_answer_without_new_work():
    policy = FakePolicy()
    server, answers = serve(policy)
    server.robot(metaworld_contract().to_yaml())
    observe(server, 2, 20)
    answers.wait(1)
    observe(server, 2, 20)
    first, second = answers.wait(2)
    assert first is second
    assert policy.asked == [2]
    assert server.stop()


def test_another_robot_is_named_with_every_difference():
    server, _ = serve()
    other = replace(metaworld_contract(), robot="piper", control_rate_hz=30.0)
    sentence = server.robot(other.to_yaml())
    assert "wanted 'metaworld', got 'piper'" in sentence
    assert "wanted 80.0, got 30.0" in sentence
    assert "/robot/contract" in server.robot("nonsense: [")
    assert server.stop()


def test_free_running_cameras_are_paired_and_the_answer_bears_the_third_person_stamp():
    server, answers = serve(max_skew_s=0.02)
    server.robot(metaworld_contract().to_yaml())
    ms, image = 1_000_000, np.zeros((128, 128, 3), np.uint8)
    for number, stamp_ns in enumerate((1000 * ms, 1005 * ms, 1010 * ms)):
        server.add("state", stamp_ns, Proprioception(np.zeros(4), "do it", number))
    server.add("third_person", 1004 * ms, image)
    for _ in range(2):  # the second one is a replay
        server.add("wrist", 1016 * ms, image)
    answer = answers.wait(1)[0]
    assert (answer.observation_id, answer.observation_ns) == (1, 1004 * ms)
    values = server.status(1.0).values
    assert (values["pairs"], values["rejected_late"]) == ("1", "1")
    assert (values["wrist_skew_max_ms"], values["state_skew_p99_ms"]) == ("12.0", "1.0")
    server.robot(metaworld_contract().to_yaml())  # it was restarted, and its time began anew
    server.add("state", 3 * ms, Proprioception(np.zeros(4), "do it", 7))
    server.add("third_person", 3 * ms, image)
    server.add("wrist", 4 * ms, image)
    assert answers.wait(2)[1].observation_id == 7
    assert server.stop()


def test_a_failing_inference_is_reported_and_the_next_one_is_answered():
    class Fails(FakePolicy):
        def infer(self, observation, *options):
            if observation.id == 1:
                raise ValueError("wanted finite state")
            return super().infer(observation, *options)

    server, answers = serve(Fails())
    server.robot(metaworld_contract().to_yaml())
    observe(server, 1, 10)
    until(lambda: "observation 1 got no answer: wanted finite state" in server.status(1.0).message)
    observe(server, 2, 20)
    answers.wait(1)
    until(lambda: server.status(1.0).message == "serving")
    assert server.stop()


def test_an_answer_that_cannot_be_sent_is_reported_and_sent_when_asked_for_again():
    def publish(answer):
        if not broken.is_set():
            return answers(answer)
        raise RuntimeError("the publisher is gone")

    broken, answers, policy = threading.Event(), Answers(), FakePolicy()
    server = PolicyServer(policy, Seen, 0, publish, lambda: 1.0)
    server.activate(True)
    server.robot(metaworld_contract().to_yaml())
    broken.set()
    observe(server, 1, 10)
    until(lambda: "observation 1 got no answer: the publisher is gone" in server.status(1.0).message)
    broken.clear()
    observe(server, 1, 10)
    answers.wait(1)
    until(lambda: server.status(1.0).message == "serving")
    assert policy.asked == [1]
    assert server.stop()


def test_the_same_observation_with_another_instruction_is_another_question():
    policy = FakePolicy()
    server, answers = serve(policy)
    server.robot(metaworld_contract().to_yaml())
    for count, instruction in enumerate(("do it", "do another", "do another"), 1):
        observe(server, 2, 20, instruction=instruction)
        answers.wait(count)
    assert policy.asked == [2, 2]
    assert server.stop()


def say_contract(server):
    assert server.robot(metaworld_contract().to_yaml()) == ""


def activate_again(server):
    server.activate(False)
    server.activate(True)


@pytest.mark.parametrize("start_anew", [say_contract, activate_again])
def test_no_answer_is_repeated_after_a_new_start(start_anew):
    policy = FakePolicy()
    server, answers = serve(policy)
    say_contract(server)
    observe(server, 2, 20)
    answers.wait(1)
    start_anew(server)
    observe(server, 2, 20)
    answers.wait(2)
    assert policy.asked == [2, 2]
    assert server.stop()


class GoesOn(FakePolicy):
    """Trained to go on with up to three steps; says what it was handed, and waits in the inference where told to."""

    sampler = Sampler(committed=3)

    def __init__(self, waits_at=None):
        super().__init__()
        self.handed, self.waits_at = [], waits_at
        self.begun, self.go = threading.Event(), threading.Event()

    def infer(self, observation, seed=0, committed=None, delay=0):
        self.handed.append((committed, delay))
        if observation.id == self.waits_at:
            self.begun.set()
            assert self.go.wait(WAIT_S)
        return super().infer(observation, seed)


@pytest.mark.parametrize("start_anew", [say_contract, activate_again])
def test_an_inference_that_a_new_start_overtakes_changes_nothing_after_it(start_anew):
    policy, step_ns = GoesOn(waits_at=1), 12_500_000
    server, answers = serve(policy, takes_ns=2 * step_ns)
    say_contract(server)
    observe(server, 1, 100 * step_ns)
    assert policy.begun.wait(WAIT_S)
    observe(server, 2, 103 * step_ns)  # waits behind it
    start_anew(server)
    policy.go.set()
    until(lambda: server.status(1.0).values["observations_outdated"] == "2")
    for number, under_way in ((3, False), (4, True)):  # the robot's time began anew
        observe(server, number, 3 * (number - 3) * step_ns, under_way)
        answers.wait(number - 2)
    assert [answer.observation_id for answer in answers.all] == [3, 4]
    assert policy.asked == [1, 3, 4]
    assert np.array_equal(policy.handed[-1][0].actions, answers.all[0].chunk.actions[3:5])
    assert server.status(1.0).message == "serving"
    assert server.stop()


def test_a_policy_that_was_trained_for_it_goes_on_with_what_is_on_its_way():
    policy, step_ns = GoesOn(), 12_500_000
    handed = policy.handed
    server, answers = serve(policy, takes_ns=2 * step_ns)
    for restart in range(2):
        server.robot(metaworld_contract().to_yaml())
        for number, under_way in enumerate((False, True, False, True)):
            observe(server, number, (3 * number + 20 * restart) * step_ns, under_way)
            answers.wait(4 * restart + number + 1)
            until(lambda: len(handed) == len(answers.all) and server.status(1.0).values["chunk_rate_hz"] != "0.0")
    assert [delay for _, delay in handed] == [0, 2, 0, 2] * 2
    assert np.array_equal(handed[1][0].actions, answers.all[0].chunk.actions[3:5])
    assert np.array_equal(handed[3][0].latents, answers.all[2].chunk.latents[3:5])
    assert server.status(1.0).values["committed_steps"] == "2"
    observe(server, 9, 10**10)
    answers.wait(9)
    assert server.status(1.0).values["committed_steps"] == "0: the robot follows no chunk"
    assert server.stop()


def test_newest_wins_and_stop_is_prompt():
    begun, go, done = threading.Event(), threading.Event(), []

    def work(request):
        begun.set()
        assert go.wait(WAIT_S)
        done.append(request)

    worker = NewestWins(work)
    worker.offer(1)
    assert begun.wait(WAIT_S)
    for request in (2, 3, 4):
        worker.offer(request)
    assert not worker.stop(0.0)
    go.set()
    assert worker.stop(WAIT_S)
    assert done == [1]
    assert worker.superseded == 2


def until(condition):
    waiting = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("condition did not come true")
