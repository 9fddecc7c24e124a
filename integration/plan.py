"""Which test programs run when, for suites.py: what each needs, and which of those that wait begins next.

A suite is given as much of a processor as it uses, by the table that suites.py ends with, and more if it works in bursts or wants something
within a second; so many run at a time as there are processors for, the longest first. What measures times, or looks at all of the machine, runs
by itself.

    python3 integration/plan.py        the order, and when each begins and ends, if all takes as long as in the table
"""

# Of the machine that the tests are made for.
PROCESSORS = 2.0
# However little they need: each has a mesh or an API server in memory.
AT_A_TIME = 3

# Whoever needs more of them has few beside it.
MUCH = 1.2

# By name, how long a suite takes, seconds, and how much of a processor it needs meanwhile. Those that are not here are short.
NEEDS = {
    "ambit-integration/on_kubernetes": (430, 1.4),
    "ztunnel/namespaces": (330, 0.9),
    "ambit-integration/conformance": (150, 1.6),
    "ambit-integration/chaos": (125, 1.3),
    "istiod-lite/lib cluster_tests": (128, 0.9),
    "ambit-node-agent/capture": (115, 0.5),
    "istiod-lite/kubernetes_authority": (87, 0.8),
    "istiod-lite/kubernetes_validation": (84, 0.9),
    "ambit-integration/up_kubernetes": (82, 0.6),
    "ambit-integration/routing_ours": (71, 0.6),
    "ambit-integration/up": (61, 0.6),
    "ambit-integration/routing_envoy": (61, 0.6),
    "ambit-node-agent/kubernetes": (61, 1.1),
    "istiod-lite/api_server": (53, 1.0),
    "ambit/install": (50, 1.1),
    "perf/node": (50, 1.5),
    "ambit-integration/waypoints": (45, 0.6),
    "ambit-integration/programs": (45, 1.0),
    "ambit-integration/policy_up": (39, 0.5),
    "ambit-integration/cluster": (38, 0.5),
    "waypoint/traffic": (36, 0.6),
    "ambit-integration/resilience": (33, 0.6),
    "ambit/waypoint": (32, 0.8),
    "ambit-integration/failure": (32, 0.6),
    "ambit/up_kubernetes": (31, 0.8),
    "ambit-integration/differential": (45, 1.2),
    "ambit-integration/clients": (29, 0.8),
    "ambit-hbone/torture": (25, 1.2),
    "istiod-lite/lib --skip cluster_tests": (25, 1.5),
    "ambit-cluster/api_server": (23, 0.8),
    "ambit-cluster/cluster": (23, 0.8),
    "ambit/handover": (20, 0.8),
    "perf/guard": (20, 1.4),
    "ambit/lib up::kubernetes::tests": (20, 0.8),
    "istiod-lite/pod_memory": (20, 1.0),
    "ambit-tls/roots": (18, 0.4),
    "ambit-integration/policy": (15, 0.6),
    "ambit-model/lib": (13, 1.5),
    "ambit/install_cni": (12, 0.8),
    "waypoint/hardening": (25, 1.5),
    "waypoint/leaving": (12, 0.5),
    "ambit-tls/revoked": (11, 0.3),
    "ambit-node-agent/lib": (10, 0.5),
    "ambit-tls/spiffe": (10, 0.3),
    "ambit-integration/wire": (10, 0.5),
    "ztunnel/lib --skip fuzz": (9, 1.0),
    "ambit-hbone/lib --skip fuzz": (8, 1.0),
    "ambit-tls/store": (7, 0.4),
    "ambit-tls/files": (6, 0.3),
    "ambit-cni/plugin": (6, 0.5),
}
SHORT = (3, 1.0)

# By name, those that run by themselves: each wants something within a second or so, or compares times, or counts what the machine has.
ALONE = {
    "ambit-integration/failure",
    "ambit-integration/policy",
    "ambit-integration/resilience",
    "ambit-integration/up",
    "ambit-testbed/bed",
    "istiod-lite/control_plane",
    "perf/control",
    "perf/guard",
    "perf/node",
    "waypoint/hardening",
}

# By package, the suites that begin once Kubernetes is built.
ON_KUBERNETES = {
    "ambit": {"handover", "install", "install_cni", "up_kubernetes", "waypoint"},
    "ambit-cluster": {"api_server", "cluster"},
    "ambit-integration": {"clients", "cluster", "conformance", "ecosystem", "on_kubernetes", "up_kubernetes"},
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
    "ambit-integration/conformance": ["conformance"],
    "ambit-integration/on_kubernetes": ["helm", "xds-client"],
    "waypoint/hardening": ["h2spec", "grpc-interop-client", "grpc-interop-server"],
    "ztunnel/namespaces": ["h2spec"],
}
KUBERNETES = "Kubernetes"

# What takes longest to build, which is built after all else in this order: most waits for Kubernetes.
LONG_TO_BUILD = [KUBERNETES, "conformance"]


def needs(name):
    """How long a suite takes, and how much of a processor it needs."""
    return NEEDS.get(name, SHORT)


def awaited(name):
    """What has to be built before a suite begins."""
    suite, _, arguments = name.partition(" ")
    package, target = suite.split("/")
    kubernetes = target in ON_KUBERNETES.get(package, ()) or arguments == ON_KUBERNETES_IN_LIBRARY.get(package)
    return [*PROGRAMS.get(suite, ()), *([KUBERNETES] if kubernetes else [])]


def forgotten(names):
    """Suites that are told of here and are not among these, though others of their package are."""
    packages = {name.partition("/")[0] for name in names}
    known = {*names, *(name.partition(" ")[0] for name in names)}
    return sorted(name for name in {*NEEDS, *ALONE, *PROGRAMS} - known if name.partition("/")[0] in packages)


def in_order(names):
    """First those beside which little fits, while there is most of that, then the longest; last those that run by themselves."""
    return sorted(names, key=lambda name: (name in ALONE, needs(name)[1] <= MUCH, -needs(name)[0], name))


def fits(name, running):
    """Whether a suite may begin beside those that run."""
    if not running:
        return True
    if name in ALONE or any(other in ALONE for other in running):
        return False
    load = sum(needs(other)[1] for other in running)
    return len(running) < AT_A_TIME and load + needs(name)[1] <= PROCESSORS + 1e-6


def next_of(waiting, running, is_built):
    """The place of the first among those that wait for which there is a processor and all is built; None if there is none."""
    for place, name in enumerate(waiting):
        if fits(name, running) and all(map(is_built, awaited(name))):
            return place
    return None


def simulated(names, built_after):
    """When each begins and ends if `built_after` says, in seconds, when what they need is built."""
    waiting, running, plan, now = in_order(names), {}, [], 0.0
    while waiting or running:
        while (place := next_of(waiting, running, lambda what: built_after.get(what, 0) <= now)) is not None:
            name = waiting.pop(place)
            running[name] = now + needs(name)[0]
            plan.append((now, running[name], name))
        later = [time for time in built_after.values() if time > now]
        now = min([*running.values(), *later])
        running = {name: end for name, end in running.items() if end > now}
    return plan


def main():
    for minutes in (0, 12):
        plan = simulated(NEEDS, {KUBERNETES: 60 * minutes})
        print(f"Kubernetes is built {minutes} minutes after the first test begins:")
        for begin, end, name in plan:
            print(f"  {begin:5.0f} {end:5.0f}  {needs(name)[1]:.1f}  {name}")
        print(f"  {max(end for _, end, _ in plan):5.0f} s; one after the other: {sum(needs(name)[0] for name in NEEDS)} s\n")


if __name__ == "__main__":
    main()
