import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from rlrep.envs import EnvironmentDied, make_vector_env, vector, workers

OPTIONS = {"image_size": 16, "action_repeat": 250}  # four steps an episode


@pytest.fixture(scope="module")
def vector_env():
    env = make_vector_env("cup_catch", 2, seed=3, **OPTIONS)
    yield env
    env.close()


@pytest.fixture(scope="module")
def one_here():
    env = make_vector_env("cup_catch", 1, seed=3, **OPTIONS)
    yield env
    env.close()


@pytest.fixture(scope="module")
def one_there():
    env = make_vector_env("cup_catch", 1, seed=3, processes=True, **OPTIONS)
    yield env
    env.close()


def test_many_run_in_processes_and_share_memory(vector_env):
    assert isinstance(vector_env, AsyncVectorEnv) and vector_env.shared_memory
    observations, _ = vector_env.reset()
    assert (observations.shape, observations.dtype) == ((2, 9, 16, 16), np.uint8)
    assert not np.array_equal(observations[0], observations[1])


def test_an_episode_that_ends_is_followed_by_the_next_in_the_same_step(vector_env):
    vector_env.reset(options={"episode": 0})
    actions = np.zeros((2, 2), np.float32)
    for _ in range(3):
        before, _, terminated, truncated, infos = vector_env.step(actions)
        assert not truncated.any() and "final_obs" not in infos
    after, _, terminated, truncated, infos = vector_env.step(actions)
    assert truncated.all() and not terminated.any()
    assert infos["episode_index"].tolist() == [1, 1]
    for i in range(2):
        np.testing.assert_array_equal(infos["final_obs"][i][:6], before[i][3:])
        assert not np.array_equal(infos["final_obs"][i], after[i])
        np.testing.assert_array_equal(after[i][:3], after[i][6:])  # a reset repeats its frame


def test_each_environment_can_be_set_to_an_episode_of_its_own(vector_env):
    vector_env.set_attr("next_episode", [4, 6])
    assert vector_env.reset()[1]["episode_index"].tolist() == [4, 6]
    assert vector_env.get_attr("next_episode") == (5, 7)


def assert_same(one, other):
    assert type(one) is type(other) and (not isinstance(one, dict) or one.keys() == other.keys())
    if isinstance(one, dict):
        for key in one:
            assert_same(one[key], other[key])
    elif one.dtype == object:
        assert_same(np.stack(one), np.stack(other))
    else:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_here_or_in_a_process_the_same_is_computed(vector_env, one_here, one_there):
    assert isinstance(one_here, SyncVectorEnv) and isinstance(one_there, AsyncVectorEnv)
    together, _ = vector_env.reset(options={"episode": 0})
    (here, infos_here), (there, infos_there) = (env.reset(options={"episode": 0}) for env in (one_here, one_there))
    np.testing.assert_array_equal(here[0], together[0])
    assert_same(here, there)
    assert_same(infos_here, infos_there)
    actions = np.full((2, 2), 0.3, np.float32)
    for _ in range(5):  # past the end of an episode
        theirs, here, there = vector_env.step(actions), one_here.step(actions[:1]), one_there.step(actions[:1])
        for of_two, of_one, of_other in zip(theirs[:4], here[:4], there[:4], strict=True):
            np.testing.assert_array_equal(of_one[0], of_two[0])
            assert_same(of_one, of_other)
        assert_same(here[4], there[4])


@pytest.mark.parametrize("kind", ["one_here", "one_there"])
def test_a_step_comes_in_two_halves(kind, request):
    env = request.getfixturevalue(kind)
    actions = np.full((1, 2), 0.3, np.float32)
    env.reset(options={"episode": 0})
    whole = [env.step(actions) for _ in range(4)][-1]
    env.reset(options={"episode": 0})
    for _ in range(3):
        env.step(actions)
    with pytest.raises(NoAsyncCallError, match="step_async"):
        env.step_wait()
    sent = actions.copy()
    env.step_async(sent)
    sent[:] = -1
    for call in (lambda: env.step_async(actions), lambda: env.step(actions), env.reset):
        with pytest.raises(AlreadyPendingCallError):
            call()
    for half, one in zip(env.step_wait(), whole, strict=True):
        assert_same(half, one)
    assert env.get_attr("next_episode") == (2,)  # because the step ended the episode


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["one_here", "vector_env"])
def test_actions_of_another_shape_are_refused_and_do_no_harm(kind, request):
    env = request.getfixturevalue(kind)
    env.reset()
    right = np.zeros((env.num_envs, 2), np.float32)
    for wrong in (right[:-1], right[0], np.zeros((env.num_envs, 3))):
        with pytest.raises(ValueError, match="the actions have shape"):
            env.step(wrong)
    assert env.step(right)[4]["simulator_steps"].tolist() == [250] * env.num_envs


def test_an_action_that_is_refused_here_does_no_harm(one_here):
    one_here.reset()
    with pytest.raises(ValueError, match="nan"):
        one_here.step(np.full((1, 2), np.nan, np.float32))
    assert one_here.step(np.zeros((1, 2), np.float32))[4]["simulator_steps"].tolist() == [250]


def test_workers_keep_to_one_thread_and_this_process_keeps_its_own(vector_env):
    worker = vector_env.processes[0].pid
    with open(f"/proc/{worker}/environ", "rb") as file:
        assert b"OMP_NUM_THREADS=1" in file.read().split(b"\0")
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def toy(deadly=None):
    """A maker of environments that die on demand; if `deadly` is given, the maker calls it in the subprocess."""

    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} {two}")
            self.lock = threading.Lock()

    class Toy(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (3,), np.uint8)
        action_space = gym.spaces.Box(-1, 100, (1,), np.float32)
        steps = 0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(3, np.uint8), {}

        def step(self, action):
            self.steps += 1
            if action[0] == 1:
                raise ValueError("no such action")
            if action[0] == 2:
                raise Odd("cannot be", "sent")
            if action[0] == 3:
                sys.exit(7)
            if action[0] == 4:
                os.kill(os.getpid(), signal.SIGSEGV)
            if action[0] == 5:
                time.sleep(1000)
            if action[0] == 6:
                if os.fork() == 0:  # the child inherits the pipe
                    time.sleep(4)
                    os._exit(0)
                os.kill(os.getpid(), signal.SIGKILL)
            return np.full(3, self.steps, np.uint8), 0.0, False, False, {}

        def nap(self, seconds):
            time.sleep(seconds)

    def make():
        if deadly is not None and multiprocessing.parent_process() is not None:
            deadly()
        return Toy()

    return make


def missing_module():
    raise ModuleNotFoundError("No module named 'elsewhere'")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def toys():
    """Two toys; checks that nothing is left of them after they are closed."""
    env = vector.ProcessVectorEnv("toy_task", [toy(), toy()])
    env.reset()
    yield env
    started = time.monotonic()
    env.close()
    assert time.monotonic() - started < 10
    assert not any(process.is_alive() for process in env.processes)
    assert not any(Path(f"/proc/{process.pid}").exists() for process in env.processes)
    with pytest.raises(ClosedEnvironmentError):
        env.get_attr("steps")


def kill(env, *indices):
    for index in indices:
        os.kill(env.processes[index].pid, signal.SIGKILL)
    for index in indices:
        env.processes[index].join()


def actions(first=0, second=0):
    return np.array([[first], [second]], np.float32)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "call",
    [
        lambda env: env.step_async(actions()),
        lambda env: env.reset(),
        lambda env: env.get_attr("steps"),
        lambda env: env.set_attr("steps", 3),
    ],
    ids=["step_async", "reset", "get_attr", "set_attr"],
)
def test_a_process_that_was_killed_is_noticed_at_the_next_call(toys, call):
    pid = toys.processes[1].pid
    kill(toys, 1)
    told = (
        rf"^environment 1 \(toy_task, process {pid}\) died: killed by signal 9 \(SIGKILL\): often the kernel's out-of"
    )
    for _ in range(2):
        with pytest.raises(EnvironmentDied, match=told):
            call(toys)
    with pytest.raises(EnvironmentDied, match=told):  # whatever is called next
        toys.step_wait()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("action", "how"),
    [
        (1, "ValueError: no such action"),
        (2, "Odd: cannot be sent"),
        (3, "exited with code 7"),
        (4, r"killed by signal 11 \(SIGSEGV\)"),
    ],
)
def test_a_death_in_a_step_is_reported(toys, action, how):
    toys.step_async(actions(second=action))
    with pytest.raises(EnvironmentDied, match=rf"^environment 1 \(toy_task, process \d+\) died: {how}$") as caught:
        toys.step_wait()
    if action <= 2:
        assert "in step\n" in str(caught.value.__cause__)  # the traceback in the process
    for call in (toys.reset, lambda: toys.step(actions())):
        with pytest.raises(EnvironmentDied, match=how):
            call()


@pytest.mark.timeout(60)
def test_a_death_while_we_wait_is_noticed(toys):
    toys.step_async(actions(first=5))
    threading.Timer(0.3, os.kill, (toys.processes[0].pid, signal.SIGKILL)).start()
    with pytest.raises(EnvironmentDied, match=r"environment 0 .*SIGKILL"):
        toys.step_wait()


@pytest.mark.timeout(60)
def test_a_death_is_noticed_where_another_process_keeps_the_pipe_open(toys):
    started = time.monotonic()
    with pytest.raises(EnvironmentDied, match=r"environment 0 .*SIGKILL"):
        toys.step(actions(first=6))
    assert time.monotonic() - started < 3.5  # before the other process ends


@pytest.mark.timeout(60)
def test_after_ctrl_c_has_cut_a_call_short_answers_are_not_mistaken(toys):
    press = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        press.start()
        toys.call("nap", 1.5)
    for call in (toys.reset, lambda: toys.get_attr("steps"), lambda: toys.step(actions())):
        with pytest.raises(EnvironmentDied, match=r"environment 0 .* Ctrl-C .*: close the environments"):
            call()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "call",
    [
        lambda env: env.step_async(actions()),
        lambda env: env.reset_async(),
        lambda env: env.call_async("steps"),
        lambda env: env.set_attr("steps", 3),
    ],
    ids=["step_async", "reset_async", "call_async", "set_attr"],
)
def test_after_ctrl_c_between_two_environments_none_is_asked_again(toys, call, monkeypatch):
    def pressed(message):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(toys.parent_pipes[1], "send", pressed)
        call(toys)
    for again in (toys.reset, lambda: toys.step(actions())):
        with pytest.raises(EnvironmentDied, match=r"environment 0 .* Ctrl-C .*: close the environments"):
            again()


@pytest.mark.timeout(60)
def test_a_process_that_is_stopped_but_alive_is_named_after_the_timeout():
    env = vector.ProcessVectorEnv("toy_task", [toy(), toy()], timeout=2)
    try:
        env.reset()
        pid = env.processes[1].pid
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        told = (
            rf"^environment 1 \(toy_task, process {pid}\) has not answered for 2 s: it is stopped; `kill -CONT {pid}`"
        )
        with pytest.raises(EnvironmentDied, match=told):
            env.step(actions())
        assert 1.5 < time.monotonic() - started < 4
        with pytest.raises(EnvironmentDied, match=told):
            env.reset()
    finally:
        started = time.monotonic()
        env.close()
    assert time.monotonic() - started < 10 and not any(process.is_alive() for process in env.processes)


@pytest.mark.timeout(60)
def test_a_process_that_computes_for_too_long_is_named_after_the_timeout():
    env = vector.ProcessVectorEnv("toy_task", [toy()], timeout=2)
    try:
        env.reset()
        with pytest.raises(EnvironmentDied, match=r"environment 0 .* 2 s: it hangs, or needs a longer timeout"):
            env.step(actions(first=5)[:1])
    finally:
        env.close(terminate=True)


def test_time_in_which_this_process_is_stopped_does_not_count(monkeypatch):
    class Pipe:
        looks = 0

        def poll(self, seconds=0.0):
            self.looks += 1
            time.sleep(0.3 if self.looks == 1 else 0)  # as if Ctrl-Z had stopped the whole program
            return self.looks > 1

        def recv(self):
            return "answer"

    monkeypatch.setattr(workers, "LOOK_EVERY", 0.1)
    process = multiprocessing.current_process()
    monkeypatch.setattr(type(process), "is_alive", lambda self: True)
    assert workers.Line(Pipe(), process, "environment 0", timeout=0.2).recv() == "answer"


@pytest.mark.timeout(60)
def test_the_step_of_a_process_that_died_after_it_is_not_lost(toys):
    toys.step_async(actions())
    while not all(line.poll() for line in toys.parent_pipes):
        time.sleep(0.01)
    kill(toys, 0)
    assert toys.step_wait()[0].tolist() == [[1] * 3] * 2
    with pytest.raises(EnvironmentDied, match="environment 0 "):
        toys.step_async(actions())


@pytest.mark.timeout(60)
def test_of_several_dead_the_first_is_named_and_close_is_not_held_up(toys):
    toys.step_async(actions(1, 3))
    toys.processes[1].join()
    with pytest.raises(EnvironmentDied, match=r"environment 0 .* died: ValueError"):
        toys.step_wait()


@pytest.mark.timeout(60)
def test_close_ends_a_process_that_hangs(toys, monkeypatch):
    monkeypatch.setattr(vector, "PATIENCE", 0.5)
    toys.step_async(actions(5, 5))
    toys.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("deadly", "how"),
    [
        (missing_module, "ModuleNotFoundError: No module named 'elsewhere'$"),
        (killed, "killed by signal 9"),
        (partial(sys.exit, "no"), "exited with code 1$"),
    ],
    ids=["exception", "kill", "exit"],
)
def test_a_death_at_the_start_is_reported_and_leaves_nothing(deadly, how):
    before = set(multiprocessing.active_children())
    with pytest.raises(EnvironmentDied, match=f"environment 1 .* died: {how}") as caught:
        vector.ProcessVectorEnv("toy_task", [toy(), toy(deadly)])
    assert caught.value.args and set(multiprocessing.active_children()) <= before  # while the error is still referenced


def run_program(program, *arguments, **options):
    """Starts a program in its own session, as a terminal does."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, program, *arguments], start_new_session=True, **pipes, **options)


def runs(pid):
    """Whether a process runs; a zombie does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


LOOP = """
import numpy as np
import this  # as dear as PyTorch, and to be imported once: it prints
from rlrep.envs import make_vector_env

env = make_vector_env("cartpole_balance", 2, seed=0, image_size=16, action_repeat=10)
env.reset()
print(*(process.pid for process in env.processes), flush=True)
try:
    while True:
        env.step_async(np.zeros((2, 1), np.float32))
        env.step_wait()
except KeyboardInterrupt:
    print("pressed", flush=True)
env.close()
print("closed", flush=True)
"""


@pytest.fixture
def loop(tmp_path):
    """The program above, which steps for ever, and the process numbers of its environments."""
    (tmp_path / "program.py").write_text(LOOP)
    root = str(Path(__file__).parents[2])
    process = run_program(str(tmp_path / "program.py"), env={**os.environ, "PYTHONPATH": root})
    lines = []
    while not lines or not lines[-1].replace(" ", "").strip().isdigit():
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()[1]
    yield process, "".join(lines), [int(pid) for pid in lines[-1].split()]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.timeout(120)
def test_processes_do_not_import_main_and_end_with_a_parent_that_is_killed(loop):
    process, printed, pids = loop
    assert len(pids) == 2 and all(runs(pid) for pid in pids)
    assert printed.count("Zen of Python") == 1
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(runs(pid) for pid in pids))
    assert "Traceback" not in process.communicate()[1]


@pytest.mark.timeout(120)
def test_ctrl_c_in_a_terminal_reaches_this_process_only_which_closes_the_others(loop):
    process, _, pids = loop
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (out, errors, process.returncode) == ("pressed\nclosed\n", "", 0)
    assert not any(runs(pid) for pid in pids)


def test_ctrl_c_does_not_reach_a_process_even_while_it_starts(vector_env):
    def blocked(pid):
        status = Path(f"/proc/{pid}/status").read_text()
        mask = next(line for line in status.splitlines() if line.startswith("SigBlk"))
        return bool(int(mask.split()[1], 16) >> (signal.SIGINT - 1) & 1)

    assert blocked(vector_env.processes[0].pid) and not blocked(os.getpid())


def test_more_processes_than_processors_are_warned_of_once(monkeypatch):
    monkeypatch.setattr(vector, "_warned_of_few_processors", False)
    monkeypatch.setattr(vector, "ProcessVectorEnv", lambda *_: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_vector_env("cup_catch", 1, seed=0, processes=True)
        with pytest.raises(RuntimeWarning, match=r"3 environment processes share 1 processor .* num_envs"):
            make_vector_env("cup_catch", 3, seed=0)
        make_vector_env("cup_catch", 3, seed=0)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="num_envs is 0"):
        make_vector_env("cup_catch", 0, seed=0)
    with pytest.raises(ValueError, match="seed is -1"):
        make_vector_env("cup_catch", 1, seed=-1)
    with pytest.raises(ValueError, match="cup_catch"):
        make_vector_env("cup_cathc", 2, seed=0)
    with pytest.raises(ValueError, match="timeout is 0"):
        make_vector_env("cup_catch", 2, seed=0, timeout=0)


def test_gymnasiums_own_processes_do_not_hang():
    """Processes of `gymnasium.make_vec`, forked after the parent has opened OpenGL."""
    program = (
        "import rlrep.envs, gymnasium as gym\n"
        "env = gym.make_vec('rlrep/cartpole_swingup-v0', 2, vectorization_mode='async', image_size=16)\n"
        "print(env.reset(seed=0)[0].shape)\n"
        "env.close()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LP_NUM_THREADS"}
    out = subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, capture_output=True, text=True)
    assert out.stdout.strip() == "(2, 9, 16, 16)", out.stderr
