#!/usr/bin/env bash
# A real Slurm on one machine, for tests: a controller with accounting and four nodes, without systemd and cgroups. Debian and root.
#
#   lab.sh up            install Debian's packages where absent, start everything; prints the SLURM_CONF to use; about 10 s
#   lab.sh down          stop everything and remove its state
#   lab.sh kill node2    a power cut: every process of the node dies at once
#   lab.sh start node2   the node comes back
#
# Everything lies in $SLURM_LAB (default /tmp/distsynth-slurm): configuration, state, logs, munge's key and socket. Nothing of the machine's own
# Slurm is touched. A node is a process in namespaces of its own (host name, processes, mounts), with 127.0.77.K as its address.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
lab=${SLURM_LAB:-/tmp/distsynth-slurm}
nodes="node1 node2 node3 node4"
export SLURM_CONF=$lab/slurm.conf MUNGE_SOCKET=$lab/munge.socket

die() { echo "lab: $*" >&2; exit 1; }
wait_for() { # SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2; shift 2
    while ((SECONDS <= end)); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    die "$what does not answer; its log lies in $lab/log"
}
detached() { setsid "$@" </dev/null >>"$lab/log/start.log" 2>&1 & } # a daemon that holds none of the caller's pipes

install_packages() {
    local absent=() pair
    for pair in slurmctld:slurmctld slurmd:slurmd srun:slurm-client munged:munge slurmdbd:slurmdbd mariadbd:mariadb-server-core \
        my_print_defaults:mariadb-client-core; do # mariadb-install-db calls the last
        command -v "${pair%%:*}" >/dev/null || absent+=("${pair##*:}")
    done
    [ ${#absent[@]} -gt 0 ] || return 0
    apt() { apt-get -y -q -o DPkg::Lock::Timeout=120 "$@" >>"$lab/log/apt.log" 2>&1; }
    apt install --no-install-recommends "${absent[@]}" || { apt update && apt install --no-install-recommends "${absent[@]}"; } ||
        die "apt-get cannot install ${absent[*]}: $(tail -1 "$lab/log/apt.log")"
}

configure() {
    head -c 1024 /dev/urandom >"$lab/munge.key"
    { echo "127.0.0.1 localhost $(hostname)"; for name in $nodes; do echo "127.0.77.${name#node} $name"; done; } >"$lab/hosts"
    cat >"$lab/slurmdbd.conf" <<CONF
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=26819
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$MUNGE_SOCKET
PidFile=$lab/run/slurmdbd.pid
LogFile=$lab/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
CONF
    chmod 600 "$lab/slurmdbd.conf" "$lab/munge.key"
    # proctrack/linuxproc and the lines after it: nothing that needs cgroups. config_overrides: more cores and memory than there are.
    # cred_expire: seconds until a requeued job may start again (Slurm's own: 120). The partitions low and high pre-empt as a site that
    # has set nothing else does: SIGTERM, the grace time, SIGKILL. As sites do: tasks are bound to their cores, arrays have at most four
    # elements, and whoever uses the partition one may have one job at a time there.
    cat >"$SLURM_CONF" <<CONF
ClusterName=lab
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$MUNGE_SOCKET,cred_expire=5
StateSaveLocation=$lab/state
SlurmdSpoolDir=$lab/spool/%n
SlurmctldPidFile=$lab/run/slurmctld.pid
SlurmdPidFile=$lab/run/slurmd-%n.pid
SlurmctldLogFile=$lab/log/slurmctld.log
SlurmdLogFile=$lab/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
MaxArraySize=4
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=10
KillWait=10
TCPTimeout=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=26819
AccountingStoragePass=$MUNGE_SOCKET
AccountingStorageEnforce=limits,qos
$(for name in $nodes; do echo "NodeName=$name NodeAddr=127.0.77.${name#node} Port=$((27000 + ${name#node})) CPUs=2 RealMemory=64000"; done)
PartitionName=main Nodes=ALL Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=30
PartitionName=high Nodes=ALL PriorityTier=100 PreemptMode=OFF
PartitionName=one Nodes=ALL PriorityTier=10 PreemptMode=OFF QOS=one MaxTime=60
CONF
}

start_accounting() {
    mariadb-install-db --no-defaults --user=root --datadir="$lab/mysql" --auth-root-authentication-method=normal --skip-test-db \
        --skip-name-resolve >"$lab/log/mariadb-install.log" 2>&1 || die "mariadb-install-db fails: $lab/log/mariadb-install.log"
    detached mariadbd --no-defaults --user=root --datadir="$lab/mysql" --socket="$lab/mysql.socket" --skip-networking \
        --pid-file="$lab/run/mariadbd.pid" --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 --skip-log-bin
    wait_for 30 mariadbd test -S "$lab/mysql.socket"
    MYSQL_UNIX_PORT=$lab/mysql.socket detached slurmdbd
    wait_for 30 slurmdbd sacctmgr -n -i show cluster
    sacctmgr -i -Q add cluster lab >/dev/null
    sacctmgr -i -Q add qos one MaxSubmitJobsPerUser=1 >/dev/null
}

start_node() {
    mkdir -p "$lab/spool/$1"
    # The PID 1 of a namespace ignores a signal that it has no handler for, and reaps what the node's dead leave behind.
    detached unshare --uts --pid --mount --fork --kill-child --mount-proc bash -c \
        "mount --bind $lab/hosts /etc/hosts; hostname $1; slurmd -N $1 -f $SLURM_CONF; trap 'exit 0' TERM; while :; do sleep 3600 & wait \$!; done"
    echo $! >"$lab/run/$1.pid"
}
kill_node() { # killing unshare takes its child and with it the namespace
    [ -e "$lab/run/$1.pid" ] || die "$1 is not up"
    kill -KILL "$(cat "$lab/run/$1.pid")"
    rm "$lab/run/$1.pid"
}
all_idle() { [ "$(sinfo -h -N -p main -o %t | grep -c idle)" = 4 ]; }

up() {
    [ "$(id -u)" = 0 ] || die "needs root"
    unshare --uts --pid --mount --fork --mount-proc true 2>/dev/null || die "this machine allows no namespaces (unshare)"
    down
    mkdir -p "$lab"/{log,run,state,spool}
    install_packages
    configure
    munged --force --num-threads=10 --key-file="$lab/munge.key" --socket="$MUNGE_SOCKET" --pid-file="$lab/run/munged.pid" --log-file="$lab/log/munged.log" \
        --seed-file="$lab/munge.seed" 2>>"$lab/log/start.log" || die "munged fails: $lab/log"
    start_accounting
    detached slurmctld
    wait_for 15 slurmctld sh -c 'scontrol ping | grep -q UP'
    for name in $nodes; do start_node "$name"; done
    wait_for 30 "a node" all_idle
    echo "$SLURM_CONF"
}

down() {
    local file pid
    for file in "$lab"/run/node*.pid "$lab"/run/{slurmctld,slurmdbd,mariadbd,munged}.pid; do
        pid=$(cat "$file" 2>/dev/null) || continue
        # Not another process that has got the number since: the lab's own have its configuration in their environment.
        if grep -qa "SLURM_CONF=$SLURM_CONF" "/proc/$pid/environ" 2>/dev/null; then kill -KILL "$pid"; fi
    done
    rm -rf "$lab"
}

case ${1:-} in
    up | down) "$1" ;;
    kill) kill_node "$2" ;;
    start) start_node "$2" ;;
    *) die "usage: lab.sh up | down | kill NODE | start NODE" ;;
esac
