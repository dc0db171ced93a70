#!/bin/bash
# A real SLURM on one machine: controller, accounting and two nodes of 4 CPUs. Run it as root, on Debian 12; it installs the packages
# that are missing. Starts only what does not run. Then `export SLURM_CONF=…/etc/slurm.conf`, which it prints.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

missing=
for package in slurm-wlm slurmdbd munge mariadb-server openmpi-bin libpmix2 iproute2; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
  apt-get update -q
  # RUNLEVEL=1 keeps the packages from starting their own services.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
fi

# --- configuration
umask 022
mkdir -p "$ETC" "$RUN" "$LOG" "$STATE/ctld" "$STATE/mysql"
taskplugin=task/none memparams=OverMemoryKill,UsePss
[ -w /sys/fs/cgroup/memory ] && [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ] && taskplugin=task/cgroup memparams=UsePss
for file in slurm slurmdbd cgroup; do
  sed -e "s|@RUN@|$RUN|g;s|@LOG@|$LOG|g;s|@STATE@|$STATE|g;s|@NET@|$NET|g;s|@HOST@|$(hostname -s)|g" \
    -e "s|@TASKPLUGIN@|$taskplugin|g;s|@MEMPARAMS@|$memparams|g" "$here/$file.conf.in" >"$ETC/$file.conf"
done
chmod 600 "$ETC/slurmdbd.conf"
echo "PMIxCliTmpDirBase=/tmp" >"$ETC/mpi.conf"

# --- network
ip link show "$BRIDGE" >/dev/null 2>&1 || ip link add "$BRIDGE" type bridge
ip addr show dev "$BRIDGE" | grep -q "$NET.1/24" || ip addr add "$NET.1/24" dev "$BRIDGE"
ip link set "$BRIDGE" up
for node in $NODES; do
  number=${node#c} space=$BRIDGE-$node
  mkdir -p "$STATE/spool-$node" "$STATE/pmix-$node"
  echo "PMIxCliTmpDirBase=$STATE/pmix-$node" >"$ETC/mpi-$node.conf"
  [ -e "/run/netns/$space" ] || ip netns add "$space"
  if ! ip link show "$BRIDGE.$number" >/dev/null 2>&1; then
    ip link add "$BRIDGE.$number" type veth peer name eth0 netns "$space"
    ip link set "$BRIDGE.$number" master "$BRIDGE"
    ip -n "$space" addr add "$NET.1$number/24" dev eth0
  fi
  ip link set "$BRIDGE.$number" up
  ip -n "$space" link set lo up
  ip -n "$space" link set eth0 up
  ip -n "$space" route replace default via "$NET.1"
done

# --- munge and the database of the accounting
[ -s "$ETC/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$ETC/munge.key")
alive munged || rm -f "$RUN/munge.socket"*
launch munged munged --foreground --force --key-file="$ETC/munge.key" --socket="$RUN/munge.socket" --num-threads=4 \
  --pid-file="$RUN/munged.daemon.pid" --log-file="$LOG/munged.log" --seed-file="$STATE/munge.seed"
database="--no-defaults --user=root --datadir=$STATE/mysql"
[ -d "$STATE/mysql/mysql" ] ||
  mariadb-install-db $database --skip-test-db --auth-root-authentication-method=socket >>"$LOG/mariadb-install.out" 2>&1
cat >"$ETC/init.sql" <<SQL
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
SQL
launch mariadbd mariadbd $database --socket="$RUN/mysql.sock" --pid-file="$RUN/mariadbd.daemon.pid" --init-file="$ETC/init.sql" \
  --bind-address=127.0.0.1 --port=14306 --skip-name-resolve --skip-log-bin --innodb-buffer-pool-size=64M \
  --innodb-log-file-size=16M --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 --performance-schema=OFF
wait_for 60 munged test -S "$RUN/munge.socket"
wait_for 60 mariadbd bash -c 'exec 3<>/dev/tcp/127.0.0.1/14306'

# --- SLURM
launch slurmdbd slurmdbd -D
wait_for 60 slurmdbd bash -c "exec 3<>/dev/tcp/$NET.1/17819"
sacctmgr -n list cluster format=cluster | grep -qw campaign || sacctmgr -i add cluster campaign >/dev/null
launch slurmctld slurmctld -D
wait_for 60 slurmctld scontrol ping
for node in $NODES; do launch "slurmd-$node" bash "$here/node.sh" "$node"; done
usable() { [ "$(sinfo -h -N -p low -o %T | grep -cE '^(idle|mixed|allocated|completing)$')" -eq "$(echo $NODES | wc -w)" ]; }
wait_for 60 "its nodes" usable
echo "$SLURM_CONF"
