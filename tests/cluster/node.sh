#!/bin/bash
# node.sh NAME: become that node, with a network, host name and /dev/shm of its own, and run its slurmd in the foreground.
set -eu
. "$(dirname "$0")/common.sh"
if [ -z "${CAMPAIGN_CLUSTER_INSIDE:-}" ]; then
  export CAMPAIGN_CLUSTER_INSIDE=1
  # Not `ip netns exec`, which mounts /sys anew and hides the cgroups.
  exec nsenter --net="/run/netns/$BRIDGE-$1" unshare --uts --mount --propagation slave bash "$0" "$1"
fi
unset CAMPAIGN_CLUSTER_INSIDE
hostname "$1"
# Without these two, ranks of different nodes would meet in one /dev/shm and in one folder of PMIx.
mount -t tmpfs -o mode=1777,size=512m "shm-$1" /dev/shm
mount --bind "$ETC/mpi-$1.conf" "$ETC/mpi.conf"
exec slurmd -D -N "$1"
