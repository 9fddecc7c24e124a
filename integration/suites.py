"""Runs the test programs that cargo has built, and counts what passed. Its last line is the count.

    cargo test --no-run --message-format=json-render-diagnostics ... >target/suites.json
    python3 integration/suites.py target/suites.json

Cargo would run them one after the other, in the order of their names. Here those come last that need Kubernetes or another program which may
still be built meanwhile, two of those run at a time that mostly wait, and what tries random input for as long as it is given runs beside the
others, on the processor time that nobody else wants. What that is decided by is told at the end: of each slow suite the time, and how much of
it a processor was busy with it.
"""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

# Longer than any suite may ever take: what hangs fails.
PATIENCE = 1200

# By package, the suites that begin once Kubernetes is built.
ON_KUBERNETES = {
    "ambit": {"handover", "install", "install_cni", "up_kubernetes", "waypoint"},
    "ambit-cluster": {"api_server", "cluster"},
    "ambit-integration": {"clients", "cluster", "ecosystem", "on_kubernetes", "up_kubernetes"},
    "ambit-node-agent": {"kubernetes"},
    "istiod-lite": {"api_server", "kubernetes_authority", "kubernetes_validation"},
}

# By package, the tests of the library that do so, by a part of their names.
ON_KUBERNETES_IN_LIBRARY = {"ambit": "up::kubernetes::tests", "istiod-lite": "cluster_tests"}

# By name, the suites with programs of others that may still be built when the first suites run.
PROGRAMS = {
    "ambit/handover": ["helm"],
    "ambit/helm": ["helm"],
    "ambit-integration/clients": ["xds-client"],
    "ambit-integration/on_kubernetes": ["helm", "xds-client"],
    "waypoint/hardening": ["h2spec", "grpc-interop-client", "grpc-interop-server"],
    "ztunnel/namespaces": ["h2spec"],
}

# By name, the suites that mostly wait, and measure no time: in network namespaces of their own, or on Kubernetes for an API server of their
# own, on ports and in directories that nobody else has. So many run at a time, the longest first.
AT_A_TIME = 2
BESIDE_EACH_OTHER = [
    "ambit-node-agent/capture",
    "ambit-integration/differential",
    "ambit-integration/routing_envoy",
    "ambit-integration/waypoints",
    "ambit-integration/policy_up",
    "ambit-integration/routing_ours",
    "istiod-lite/lib cluster_tests",
    "istiod-lite/kubernetes_authority",
    "istiod-lite/kubernetes_validation",
    "ambit/install",
    "ambit/waypoint",
    "ambit/handover",
    "ambit-cluster/api_server",
    "ambit/up_kubernetes",
    "ambit/lib up::kubernetes::tests",
    "ambit/install_cni",
]

# The packages whose library has tests of random input, in modules of this name; so is a whole suite called.
WITH_RANDOM = {"ambit-hbone", "ambit-tls", "ztunnel"}
RANDOM = "fuzz"

# Waits for Kubernetes, or builds it, or says at once that it is there.
BUILD_KUBERNETES = ["target/debug/ambit", "cluster", "build"]
# The same of programs, whose names follow.
BUILD_PROGRAMS = ["integration/programs.sh"]
BUILD_PATIENCE = 2700

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;", re.MULTILINE)
WELL = re.compile(r"^test .* \.\.\. ok$")
SLOWEST = 20
# So many lines of a suite that failed are told again at the end, where they are found.
TOLD = 80


# The test programs that run now.
RUNNING = set()


class Suite:
    """A test program, and what it said."""

    def __init__(self, package, target, executable, directory, arguments=()):
        self.package, self.target, self.executable, self.directory = package, target, executable, directory
        self.arguments = list(arguments)
        self.needs_kubernetes = target in ON_KUBERNETES.get(package, ())
        self.programs = PROGRAMS.get(f"{package}/{target}", [])
        self.output, self.status, self.seconds, self.busy = "", -1, 0.0, 0.0

    def with_arguments(self, *arguments):
        return Suite(self.package, self.target, self.executable, self.directory, arguments)

    def on_kubernetes(self, part):
        these = self.with_arguments(part)
        these.needs_kubernetes = True
        return these

    @property
    def name(self):
        return " ".join([f"{self.package}/{self.target}", *self.arguments])

    def run(self, niceness=0, tell=lambda line: None):
        """Runs it to its end; `tell` gets each line that it prints."""
        began = time.monotonic()
        process = subprocess.Popen(
            [self.executable, *self.arguments],
            cwd=self.directory,
            env={**os.environ, "CARGO_MANIFEST_DIR": self.directory, "CARGO_PKG_NAME": self.package},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=(lambda: stand_back(niceness)) if niceness else None,
        )
        RUNNING.add(process)
        timer = threading.Timer(PATIENCE, end, [process])
        timer.daemon = True
        timer.start()
        lines = []
        try:
            for line in process.stdout:
                lines.append(line)
                tell(line)
            # Its processor time, and that of all that it has started and waited for.
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = self.status = os.waitstatus_to_exitcode(status)
            self.busy = used.ru_utime + used.ru_stime
        finally:
            timer.cancel()
            if process.poll() is None:
                end(process)
            RUNNING.discard(process)
        self.output, self.seconds = "".join(lines), time.monotonic() - began

    def counts(self):
        """How many passed, failed and were ignored; what ended badly, or without having counted, has one that failed."""
        counted = [[int(number) for number in found] for found in RESULT.findall(self.output)]
        passed, failed, ignored = map(sum, zip(*counted)) if counted else (0, 0, 0)
        return passed, max(failed, int(self.status != 0 or not counted)), ignored


def stand_back(niceness):
    """Has everybody else come first; between sessions of processes, which share time among themselves, too where the kernel has that."""
    os.nice(niceness)
    try:
        with open("/proc/self/autogroup", "w", encoding="ascii") as group:
            group.write(str(niceness))
    except OSError:
        pass


def end(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def end_all(number, _frame):
    """Ends with all that runs: each suite is in a session of its own, which no signal to this program reaches."""
    for process in list(RUNNING):
        end(process)
    os._exit(128 + number)


def built(path):
    """The test programs that cargo told of."""
    suites = []
    with open(path, encoding="utf-8") as messages:
        for message in (json.loads(line) for line in messages if line.startswith("{")):
            if message.get("reason") != "compiler-artifact" or not message["profile"]["test"] or not message.get("executable"):
                continue
            manifest = message["manifest_path"]
            with open(manifest, encoding="utf-8") as text:
                package = re.search(r'^name = "(.+)"', text.read(), re.MULTILINE).group(1)
            target = message["target"]
            name = target["name"] if target["kind"] == ["test"] else target["kind"][0]
            suites.append(Suite(package, name, message["executable"], os.path.dirname(manifest)))
    return sorted(suites, key=lambda suite: (suite.package, suite.target))


class Plan:
    """Which suites run when."""

    def __init__(self, suites):
        self.random, ordinary = [], []
        for suite in suites:
            part = ON_KUBERNETES_IN_LIBRARY.get(suite.package) if suite.target == "lib" else None
            if suite.target == RANDOM:
                self.random.append(suite)
            elif suite.target == "lib" and suite.package in WITH_RANDOM:
                ordinary.append(suite.with_arguments("--skip", RANDOM))
                self.random.append(suite.with_arguments(RANDOM))
            elif part:
                ordinary += [suite.with_arguments("--skip", part), suite.on_kubernetes(part)]
            else:
                ordinary.append(suite)
        # First what needs nothing that may still be built, then what needs programs of others, last what needs Kubernetes.
        ordinary.sort(key=lambda suite: bool(suite.programs))
        self.beside, self.alone = self.those(ordinary, kubernetes=False)
        self.beside_on_kubernetes, self.alone_on_kubernetes = self.those(ordinary, kubernetes=True)

    @staticmethod
    def those(suites, kubernetes):
        """Those with or without Kubernetes: that run beside each other, and that run alone."""
        these = [suite for suite in suites if suite.needs_kubernetes == kubernetes]
        beside = [suite for suite in these if suite.name in BESIDE_EACH_OTHER]
        beside.sort(key=lambda suite: BESIDE_EACH_OTHER.index(suite.name))
        return beside, [suite for suite in these if suite not in beside]

    @property
    def on_kubernetes(self):
        return self.beside_on_kubernetes + self.alone_on_kubernetes

    @property
    def suites(self):
        return self.beside + self.alone + self.on_kubernetes + self.random


def say(text):
    sys.stdout.write(text)
    sys.stdout.flush()


def bring(what, command):
    """Waits for what is built meanwhile, or builds it."""
    began = time.monotonic()
    subprocess.run(command, check=True, timeout=BUILD_PATIENCE, stdin=subprocess.DEVNULL)
    say(f"\n== {what}, {time.monotonic() - began:.0f} s waited for\n")


def bring_programs(suites):
    if names := sorted({name for suite in suites for name in suite.programs}):
        try:
            bring(", ".join(names), BUILD_PROGRAMS + names)
        except subprocess.SubprocessError as error:
            # What needs it fails for that, and the others count.
            say(f"{error}\n")


def run_alone(suites):
    """Runs them one after the other."""
    for suite in suites:
        bring_programs([suite])
        say(f"\n     Running {suite.name}\n")
        suite.run(tell=say)


def run_together(suites):
    """Runs some of them at a time, in this order, and tells what each has said when it ends."""
    bring_programs(suites)
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        running = {pool.submit(suite.run): suite for suite in suites}
        for ended in concurrent.futures.as_completed(running):
            ended.result()
            say(f"\n     Ran beside another: {running[ended].name}\n{running[ended].output}")


def main():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_all)
    plan = Plan(built(sys.argv[1]))
    suites = plan.suites
    if not suites:
        sys.exit("there is nothing to run")
    random = threading.Thread(target=lambda: [suite.run(niceness=19) for suite in plan.random], daemon=True)
    random.start()
    run_together(plan.beside)
    run_alone(plan.alone)
    if plan.on_kubernetes:
        bring("Kubernetes", BUILD_KUBERNETES)
    run_together(plan.beside_on_kubernetes)
    run_alone(plan.alone_on_kubernetes)
    random.join()
    for suite in plan.random:
        say(f"\n     Ran beside the others: {suite.name}\n{suite.output}")
    say("\n== result\nslowest, in seconds, and how much of them a processor was busy, as far as its processes were waited for:\n")
    for suite in sorted(suites, key=lambda suite: -suite.seconds)[:SLOWEST]:
        say(f"  {suite.seconds:6.1f}  {100 * suite.busy / max(suite.seconds, 0.1):4.0f} %  {suite.name}\n")
    passed, failed, ignored = map(sum, zip(*(suite.counts() for suite in suites)))
    for suite in suites:
        if suite.counts()[1]:
            say(f"failed: {suite.name} ({'exit code' if suite.status >= 0 else 'signal'} {abs(suite.status)})\n")
            lines = [line for line in suite.output.splitlines() if not WELL.match(line)]
            say("".join(f"  {line}\n" for line in lines[-TOLD:]))
    say(f"{passed} passed, {failed} failed, {ignored} skipped\n")
    sys.exit(int(failed > 0 or passed == 0))


if __name__ == "__main__":
    main()
