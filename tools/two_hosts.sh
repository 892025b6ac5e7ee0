#!/bin/bash
# Runs a command as two ranks on two "hosts", which are network namespaces of this machine with a
# name, an address and a link each: tools/two_hosts.sh shears train ...
#
# Needs root, ip (iproute2), unshare (util-linux) and Open MPI. The namespaces end with this script.
# Exit code 77: not supported on this machine.
set -u
if [ "${1:-}" != inside ]; then
    for tool in ip unshare mpirun; do
        command -v "$tool" >/dev/null || { echo "two_hosts: there is no $tool" >&2; exit 77; }
    done
    [ "$(id -u)" = 0 ] || { echo "two_hosts: only root can make network namespaces" >&2; exit 77; }
    # In a PID namespace, all processes end with the first.
    exec unshare --mount --net --uts --pid --mount-proc --fork --kill-child "$0" inside "$@"
fi
shift
cannot() { echo "two_hosts: $1" >&2; exit 77; }
# Namespace names are files; this private tmpfs hides them from other processes.
{ mount -t tmpfs none /run && mkdir /run/netns; } || cannot "no tmpfs"
ip link set lo up
ip link add switch type bridge || cannot "no bridge"
ip link set switch up
for host in 1 2; do
    ip netns add "h$host" || cannot "no network namespace"
    ip link add "port$host" type veth peer name eth0 netns "h$host" || cannot "no veth"
    ip link set "port$host" master switch up
    ip netns exec "h$host" ip link set lo up
    ip netns exec "h$host" ip link set eth0 up
    ip netns exec "h$host" ip address add "10.77.0.$host/24" dev eth0
done
# The replacement of ssh for mpirun: agent HOST COMMAND...
agent=$(mktemp)
trap 'rm -f "$agent"' EXIT
cat >"$agent" <<'AGENT'
#!/bin/bash
host=$1
shift
exec ip netns exec "$host" unshare --uts bash -c 'hostname "$0"; eval "$1"' "$host" "$*"
AGENT
chmod +x "$agent"
"$agent" h1 true || cannot "no host in a namespace"
[ "${1:-}" = true ] && exit 0
# For tests: cuts off the second host once this file exists.
[ -z "${CUT_WHEN:-}" ] ||
    (until [ -e "$CUT_WHEN" ]; do sleep 0.1; done; ip link set port2 down) &
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
command="$(printf '%q ' mpirun --host h1:1,h2:1 --bind-to none \
    --mca plm_rsh_agent "$agent" --mca btl tcp,self \
    --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 "$@")"
"$agent" h1 "cd $(printf '%q' "$PWD") && $command"
