#!/bin/bash
# Stop what up.sh started: jobs, each daemon by its recorded pid, the network. Logs stay; `down.sh --purge` deletes the prefix.
set -u
. "$(dirname "$0")/common.sh"
if alive slurmctld; then
  timeout 10 scancel --state=PENDING -u root 2>/dev/null
  timeout 10 scancel --full -u root 2>/dev/null
  for _ in $(seq 30); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.2; done
fi
for node in $NODES; do stop "slurmd-$node"; done
for daemon in slurmctld slurmdbd mariadbd munged; do stop "$daemon"; done
for node in $NODES; do
  [ -e "/run/netns/$BRIDGE-$node" ] || continue
  for pid in $(ip netns pids "$BRIDGE-$node"); do kill -KILL "$pid"; done # steps left over; nothing else lives there
  ip netns del "$BRIDGE-$node"
  find "/sys/fs/cgroup/memory/slurm_$node" -depth -type d -exec rmdir {} + 2>/dev/null
done
ip link del "$BRIDGE" 2>/dev/null
[ "${1:-}" = --purge ] && rm -rf "$PREFIX"
exit 0
