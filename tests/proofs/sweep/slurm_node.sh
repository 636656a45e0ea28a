#!/usr/bin/env bash
# A Slurm of one node on this machine, for the tests: `slurm_node.sh up DIR PORT PORT` starts it with all its files
# in DIR, `slurm_node.sh down DIR` ends it. Needs root and Debian's packages slurm-wlm and munge. The system's own
# configuration is neither read nor changed: commands find this one by SLURM_CONF=DIR/slurm.conf.
set -euo pipefail

PATIENCE_S=30

up() {
    local folder=$1 name waited
    name=$(hostname -s)
    mkdir -p "$folder/state" "$folder/spool"
    # munged wants that nobody else can write to any folder above its socket.
    chmod 755 "$folder"
    rm -f "$folder/munge.key"
    mungekey --create --keyfile "$folder/munge.key"
    # A job that is put into the queue again waits until the credential of its last start has expired, by default
    # two minutes. CPUs and GPUs are made up, so that tests find the same node everywhere.
    cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=$2
SlurmdPort=$3
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=batch_sched_delay=1,sched_min_interval=100000
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$name NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=test Nodes=$name Default=YES MaxTime=INFINITE State=UP
CONF
    # A GPU is a file to Slurm.
    touch "$folder"/gpu{0,1}
    echo "Name=gpu File=$folder/gpu[0-1]" >"$folder/gres.conf"
    export SLURM_CONF="$folder/slurm.conf"
    # As root it says that it had better be somebody else, which here would need a user.
    munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
        --pid-file="$folder/munged.pid" --seed-file="$folder/munged.seed" --log-file="$folder/munged.log" 2>/dev/null
    slurmctld
    slurmd
    for ((waited = 0; waited < PATIENCE_S * 5; waited++)); do
        if [ "$(timeout 5 sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
            return 0
        fi
        sleep 0.2
    done
    tail -n 5 "$folder"/*.log >&2
    down "$folder"
    return 1
}

down() {
    local program pid waited
    for program in slurmd slurmctld munged; do
        pid=$(cat "$1/$program.pid" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || continue
        for ((waited = 0; waited < PATIENCE_S * 5; waited++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.2
        done
    done
}

"$@"
