"""Runs the test programs that cargo has built, and counts what passed. Its last line is the count.

    cargo test --no-run --message-format=json-render-diagnostics ... >target/suites.json
    python3 integration/suites.py target/suites.json

Cargo would run them one after the other, in the order of their names. Here several run at a time, by what plan.py knows of them; those that need
Kubernetes or another program which may still be built meanwhile begin when it is there, and what tries random input for as long as it is given
runs beside all others, on the processor time that nobody else wants. At the end is told what plan.py is to know: of each slow suite the time,
and how much of it a processor was busy with it.
"""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time

# It would be left in the checkout.
sys.dont_write_bytecode = True
import plan  # noqa: E402

# Longer than any suite may ever take: what hangs fails.
PATIENCE = 1200

# The packages whose library has tests of random input, in modules of this name; so is a whole suite called.
WITH_RANDOM = {"ambit-hbone", "ambit-tls", "ztunnel"}
RANDOM = "fuzz"

# Waits for Kubernetes, which test.sh has begun to compile, or builds it, or says at once that it is there.
BUILD_KUBERNETES = ["flock", "target/kubernetes.lock", "target/debug/ambit", "cluster", "build"]
# The same of a program, whose name follows.
BUILD_PROGRAM = "integration/programs.sh"
BUILD_PATIENCE = 2700
# Of what is to run on processor time that nobody else wants.
LAST = 19

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;", re.MULTILINE)
WELL = re.compile(r"^test .* \.\.\. ok$")
SLOWEST = 40
# So many lines of a suite that failed are told again at the end, where they are found.
TOLD = 80


# The programs that run now.
RUNNING = set()


class Suite:
    """A test program, and what it said."""

    def __init__(self, package, target, executable, directory, arguments=()):
        self.package, self.target, self.executable, self.directory = package, target, executable, directory
        self.arguments = list(arguments)
        self.output, self.status, self.seconds, self.busy = "", -1, 0.0, 0.0

    def with_arguments(self, *arguments):
        return Suite(self.package, self.target, self.executable, self.directory, arguments)

    @property
    def name(self):
        return " ".join([f"{self.package}/{self.target}", *self.arguments])

    def run(self, niceness=0, tell=lambda line: None):
        """Runs it to its end; `tell` gets each line that it prints."""
        began = time.monotonic()
        environment = {**os.environ, "CARGO_MANIFEST_DIR": self.directory, "CARGO_PKG_NAME": self.package}
        process = start([self.executable, *self.arguments], niceness, cwd=self.directory, env=environment)
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


def start(command, niceness=0, **where):
    """Starts a program in a session of its own, which says all that it says in one place."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=(lambda: stand_back(niceness)) if niceness else None,
        **where,
    )
    RUNNING.add(process)
    return process


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


def of_random_input(suites):
    """The suites that are left, and those that try random input."""
    ordinary, random = [], []
    for suite in suites:
        on_kubernetes = plan.ON_KUBERNETES_IN_LIBRARY.get(suite.package)
        if suite.target == RANDOM:
            random.append(suite)
        elif suite.target == "lib" and suite.package in WITH_RANDOM:
            ordinary.append(suite.with_arguments("--skip", RANDOM))
            random.append(suite.with_arguments(RANDOM))
        elif suite.target == "lib" and on_kubernetes:
            ordinary += [suite.with_arguments("--skip", on_kubernetes), suite.with_arguments(on_kubernetes)]
        else:
            ordinary.append(suite)
    return ordinary, random


def say(text):
    sys.stdout.write(text)
    sys.stdout.flush()


def build(what, happened):
    """Builds these one after the other, or waits until they are built, and says of each whether it is there."""
    for name in what:
        command = BUILD_KUBERNETES if name == plan.KUBERNETES else [BUILD_PROGRAM, name]
        why = None
        try:
            process = start(command, LAST)
            try:
                said, _ = process.communicate(timeout=BUILD_PATIENCE)
            finally:
                if process.poll() is None:
                    end(process)
                RUNNING.discard(process)
            if process.returncode != 0:
                last = "\n".join(said.splitlines()[-(TOLD // 4) :])
                why = f"{name} cannot be built: {' '.join(command)} ended with {process.returncode}\n{last}"
        except Exception as error:  # Whatever it is, nobody waits for ever.
            why = f"{name} cannot be built: {error}"
        happened.put((name, why))


class Run:
    """All suites in the order of the plan, each as soon as there is a processor for it and what it needs is built."""

    def __init__(self, suites):
        order = {name: place for place, name in enumerate(plan.in_order({suite.name for suite in suites}))}
        self.waiting = sorted(suites, key=lambda suite: order[suite.name])
        self.running, self.built, self.happened = [], set(), queue.SimpleQueue()
        self.idle = 0.0

    def to_build(self):
        """What the suites need that may still be built, what takes longest last."""
        awaited = {what for suite in self.waiting for what in plan.awaited(suite.name)}
        return sorted(awaited, key=lambda what: (*(what == last for last in reversed(plan.LONG_TO_BUILD)), what))

    def to_its_end(self):
        threading.Thread(target=build, args=(self.to_build(), self.happened), daemon=True).start()
        self.start_what_fits()
        while self.running or self.waiting:
            since, nobody = time.monotonic(), not self.running
            self.take(*self.happened.get())
            if nobody:
                self.idle += time.monotonic() - since
            self.start_what_fits()

    def take(self, what, why):
        """A suite has ended, or something is built, or cannot be built, for which all fails that needs it."""
        if isinstance(what, Suite):
            self.running.remove(what)
            if what.name not in plan.ALONE:
                say(f"\n     Ran: {what.name}\n{what.output}")
            return
        self.built.add(what)
        if why:
            without = [suite for suite in self.waiting if what in plan.awaited(suite.name)]
            self.waiting = [suite for suite in self.waiting if suite not in without]
            for suite in without:
                suite.output, suite.status = f"not run: {why}\n", 1

    def start_what_fits(self):
        while True:
            names = [suite.name for suite in self.waiting]
            place = plan.next_of(names, [suite.name for suite in self.running], self.built.__contains__)
            if place is None:
                return
            suite = self.waiting.pop(place)
            self.running.append(suite)
            tell = say if suite.name in plan.ALONE else lambda line: None
            say(f"\n     {'Running' if suite.name in plan.ALONE else 'Begins'}: {suite.name}\n")
            threading.Thread(target=self.one, args=(suite, tell), daemon=True).start()

    def one(self, suite, tell):
        try:
            suite.run(tell=tell)
        except Exception as error:  # Whatever it is, all others go on, and this one has failed.
            suite.output, suite.status = f"{suite.output}\nit cannot be run: {error!r}\n", 1
        finally:
            self.happened.put((suite, None))


def main():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_all)
    ordinary, random = of_random_input(built(sys.argv[1]))
    suites = ordinary + random
    if not suites:
        sys.exit("there is nothing to run")
    if forgotten := plan.forgotten([suite.name for suite in suites]):
        sys.exit(f"integration/plan.py tells of suites that are not there: {', '.join(forgotten)}")
    beside = threading.Thread(target=lambda: [suite.run(niceness=LAST) for suite in random], daemon=True)
    beside.start()
    run = Run(ordinary)
    run.to_its_end()
    beside.join()
    for suite in random:
        say(f"\n     Ran beside the others: {suite.name}\n{suite.output}")
    if run.idle > 1:
        say(f"\n{run.idle:.0f} s nothing ran, for what was still being built\n")
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
