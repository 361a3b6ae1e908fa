"""Two replicas behind nginx with deploy/nginx.conf: killed, restarted and rolled over under load.

Every answer is compared with one replica's answer without load. Debian's package is `nginx-light`.
"""

import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("CLOZE_BINARY", str(ROOT / "target" / "release" / "cloze"))
CLIENTS = 16
# Scores depend on the batch in their last digits.
SCORE_ERROR_MAX = 1e-4

if shutil.which("nginx") is None:
    pytest.skip("nginx is not installed", allow_module_level=True)

TEXTS = [
    f"{who} {what} [MASK] in {where}."
    for who in ["She", "The king", "A river", "His brother"]
    for what in ["was", "played", "is"]
    for where in ["London", "the north", "1950"]
]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} after {seconds} s"
        time.sleep(0.02)


def ask(connection, text):
    connection.request("POST", "/", json.dumps({"inputs": text}), {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


class Replica:
    """A `cloze` process that keeps its port over restarts."""

    def __init__(self):
        self.port = free_port()
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [BINARY, "--port", str(self.port), "--threads", "1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def is_ready(self):
        try:
            return self.get("/health/ready")[0] == 200
        except OSError:
            return False

    def answered(self):
        """The number of requests answered since the start."""
        lines = self.get("/metrics")[1].splitlines()
        (count,) = [line for line in lines if line.startswith('cloze_http_requests_total{method="POST",route="/",status="200"}')]
        return int(count.split()[-1])


class Balancer:
    """nginx with deploy/nginx.conf, other ports, and with or without retries."""

    def __init__(self, folder, replicas, retries=True):
        self.port = free_port()
        text = (ROOT / "deploy/nginx.conf").read_text()
        for old, new in [
            ("127.0.0.1:8080", f"127.0.0.1:{self.port}"),
            ("127.0.0.1:8001", f"127.0.0.1:{replicas[0].port}"),
            ("127.0.0.1:8002", f"127.0.0.1:{replicas[1].port}"),
            ("pid /run/cloze-nginx.pid", f"pid {folder}/pid"),
            # At `warn` it logs every refused connection.
            ("error_log stderr warn", "error_log stderr crit"),
        ]:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        if not retries:
            text, count = re.subn(r"proxy_next_upstream .*;", "proxy_next_upstream off;", text)
            assert count == 1
        config = folder / "nginx.conf"
        config.write_text(text)
        command = ["nginx", "-e", "stderr", "-c", str(config)]
        said = subprocess.run([*command, "-t"], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        self.process = subprocess.Popen(command)
        wait_until(self.listens, "nginx does not listen")

    def listens(self):
        with socket.socket() as stream:
            return stream.connect_ex(("127.0.0.1", self.port)) == 0


class Load:
    """Clients that send requests without a pause inside the `with` block, and counts of their answers."""

    def __init__(self, port, truth):
        self.port = port
        self.truth = truth
        self.right = 0
        self.wrong = []
        self.lost = []
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(seed,)) for seed in range(CLIENTS)]

    def run(self, seed):
        choice = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stopped.is_set():
            text = choice.choice(TEXTS)
            try:
                status, body = ask(connection, text)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                status, body = None, repr(error)
            with self.lock:
                if status != 200:
                    self.lost.append((status, body))
                elif same(json.loads(body), self.truth[text]):
                    self.right += 1
                else:
                    self.wrong.append((text, body))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def wait_for_answers(self, answers):
        """Waits for this number of further right answers."""
        goal = self.right + answers
        wait_until(lambda: self.right >= goal, f"no {answers} answers", seconds=60)


def same(answer, truth):
    return len(answer) == len(truth) and all(
        a["token"] == b["token"]
        and a["sequence"] == b["sequence"]
        and abs(a["score"] - b["score"]) <= SCORE_ERROR_MAX
        for a, b in zip(answer, truth)
    )


@pytest.fixture
def start(tmp_path):
    """Starts two replicas and the balancer; returns them and the expected answers."""
    processes = []

    def start(**options):
        replicas = [Replica(), Replica()]
        processes.extend(replicas)
        wait_for(replicas)
        balancer = Balancer(tmp_path, replicas, **options)
        processes.append(balancer)
        connection = http.client.HTTPConnection("127.0.0.1", replicas[0].port, timeout=30)
        truth = {text: json.loads(ask(connection, text)[1]) for text in TEXTS}
        return replicas, balancer, truth

    yield start
    for owner in processes:
        # nginx's workers end only if their master is terminated, not killed.
        owner.process.terminate()
        owner.process.wait()


def wait_for(replicas):
    wait_until(lambda: all(replica.is_ready() for replica in replicas), "a replica is not ready")


def kill_each(replicas, load):
    for replica in replicas:
        load.wait_for_answers(200)
        replica.process.kill()
        replica.process.wait()
        load.wait_for_answers(200)
        replica.start()
        wait_for(replicas)
    load.wait_for_answers(200)


def test_a_killed_replica_loses_nothing(start):
    replicas, balancer, truth = start()
    with Load(balancer.port, truth) as load:
        for _ in range(3):
            kill_each(replicas, load)
    print(f"{load.right} right")
    assert not load.wrong, load.wrong[:3]
    assert not load.lost, (len(load.lost), load.lost[:3])
    # Both replicas served requests after their last restart.
    assert all(replica.answered() > 20 for replica in replicas)


def test_a_rolling_restart_loses_nothing(start):
    replicas, balancer, truth = start()
    with Load(balancer.port, truth) as load:
        for replica in replicas * 3:
            load.wait_for_answers(200)
            replica.process.send_signal(signal.SIGTERM)
            assert replica.process.wait(timeout=20) == 0
            replica.start()
            wait_for(replicas)
        load.wait_for_answers(200)
    print(f"{load.right} right")
    assert not load.wrong, load.wrong[:3]
    assert not load.lost, (len(load.lost), load.lost[:3])


def test_without_its_retries_the_balancer_loses_requests(start):
    """Shows that the two tests above fail without retries."""
    replicas, balancer, truth = start(retries=False)
    with Load(balancer.port, truth) as load:
        for _ in range(5):
            kill_each(replicas, load)
            if load.lost:
                break
    print(f"{load.right} right, {len(load.lost)} lost")
    assert not load.wrong, load.wrong[:3]
    assert load.lost
