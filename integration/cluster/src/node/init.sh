# Process 1 of a node: makes the node's view of the machine, then keeps its programs running. The node dies whole with it, pods included.
#
#   init.sh MEMORY DISK NAME ADDRESSES [grouped]
#
# MEMORY  a directory in memory: over/ takes what is written to /etc, /var and /opt, run/ becomes /run
# DISK    a directory for what may grow: images, pods, logs
# grouped is said by itself, once it is in the control groups of the node
set -eu
memory=$1 disk=$2 name=$3 addresses=$4
# What the person has in the environment, proxies for example, is not for the node.
for variable in $(compgen -e); do unset "$variable"; done
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/

# All that it starts belongs to the control groups of the node, which are removed with it.
if [ "${5:-}" != grouped ]; then
    while read -r group; do
        mkdir -p "$group"
        # Those of the first version start without processors and memory of their own.
        for set in cpus mems; do
            [ ! -e "$group/cpuset.$set" ] || cat "$(dirname "$group")/cpuset.$set" >"$group/cpuset.$set"
        done
        echo 0 >"$group/cgroup.procs"
    done <"$memory/run/cluster/cgroups"
    # From here on they are the roots of their trees: containerd names the groups of containers from the root.
    exec unshare --cgroup bash "$0" "$@" grouped
fi
while read -r group; do
    tree=$(dirname "$group")
    mount --bind "$group" "$tree"
    # With the second version only groups without processes can have groups in them.
    if [ -e "$tree/cgroup.controllers" ]; then
        mkdir -p "$tree/init"
        echo 0 >"$tree/init/cgroup.procs"
    fi
done <"$memory/run/cluster/cgroups"

# What pods and plugins mount is to be seen on all of the node, and nowhere else.
mount --make-rshared /
mount --bind "$disk" "$memory/run/cluster/disk"
for directory in etc var opt; do
    mkdir -p "$memory/over/$directory/upper" "$memory/over/$directory/work"
    mount -t overlay -o "lowerdir=/$directory,upperdir=$memory/over/$directory/upper,workdir=$memory/over/$directory/work" overlay "/$directory"
done
for directory in /var/lib/containerd /var/lib/kubelet /var/log/pods /var/log/containers /var/lib/cni; do
    rm -rf "$directory"
    mkdir -p "$disk$directory" "$directory"
    mount --bind "$disk$directory" "$directory"
done
# A machine's own configuration of these is not the node's.
rm -rf /etc/cni /etc/containerd /etc/kubernetes /opt/cni
mkdir -p /etc/cni/net.d /opt/cni/bin
cp "$memory/run/cluster/pods.conflist" /etc/cni/net.d/10-pods.conflist
for plugin in "$memory"/run/cluster/plugins/*; do cp -P "$plugin" /opt/cni/bin/; done
{
    echo "127.0.0.1 localhost"
    echo "::1 localhost"
    for address in $addresses; do echo "$address $name"; done
} >/etc/hosts
: >/etc/resolv.conf

# The kubelet writes settings of the whole machine. It gets files to write to.
setting() {
    mkdir -p "$memory/settings/$(dirname "$1")"
    echo "$2" >"$memory/settings/$1"
    [ ! -e "/proc/sys/$1" ] || mount --bind "$memory/settings/$1" "/proc/sys/$1"
}
setting vm/overcommit_memory 1
setting vm/panic_on_oom 0
setting kernel/panic 10
setting kernel/panic_on_oops 1
setting kernel/keys/root_maxkeys 1000000
setting kernel/keys/root_maxbytes 25000000

mount --rbind "$memory/run" /run
mkdir -p /run/lock /run/cluster/disk/tmp
export TMPDIR=/run/cluster/disk/tmp

keep() {
    log=/run/cluster/disk/$1.log
    shift
    while :; do
        "$@" >>"$log" 2>&1 </dev/null || true
        sleep 1
    done
}
bin=/run/cluster/bin
keep containerd containerd --config /run/cluster/containerd.toml &
# Until there are images for pods, and an API server to ask.
until [ -e /run/cluster/start ]; do sleep 0.05; done
keep kubelet $bin/kubelet --config=/run/cluster/kubelet.json --kubeconfig=/run/cluster/kubelet.kubeconfig --hostname-override="$name" \
    --node-ip="$(echo "$addresses" | tr ' ' ,)" --root-dir=/var/lib/kubelet --cert-dir=/run/cluster/pki &
keep kube-proxy $bin/kube-proxy --config=/run/cluster/kube-proxy.json &
# As process 1 it also takes in what the shims of containers leave.
while :; do wait; sleep 1; done
