# Settings and process handling that up.sh, down.sh and node.sh share. The prefix has all state, logs and configuration.
PREFIX=${CAMPAIGN_CLUSTER_PREFIX:-/tmp/campaign-cluster} # keep it short: sockets have at most 107 characters
NODES="c1 c2"
NET=10.78.0                                              # .1 is the controller, .11 is c1, .12 is c2
BRIDGE=campcl0
ETC=$PREFIX/etc RUN=$PREFIX/run LOG=$PREFIX/log STATE=$PREFIX/state
export SLURM_CONF=$ETC/slurm.conf

start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
alive() { # alive NAME: the process in NAME.pid is the one that we started (its start time tells), and no zombie
  local pid start
  read -r pid start 2>/dev/null <"$RUN/$1.pid" || return 1
  [ "$(start_time "$pid")" = "$start" ] && [ "$(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f1)" != Z ]
}
launch() { # launch NAME COMMAND...: start in the background, unless it runs already
  local name=$1
  shift
  alive "$name" && return 0
  setsid "$@" >>"$LOG/$name.out" 2>&1 </dev/null &
  echo "$! $(start_time $!)" >"$RUN/$name.pid"
}
stop() { # stop NAME: end what launch started, and wait for it
  local pid _
  if alive "$1"; then
    read -r pid _ <"$RUN/$1.pid"
    kill "$pid"
    for _ in $(seq 100); do alive "$1" || break; sleep 0.1; done
    alive "$1" && kill -KILL "$pid"
  fi
  rm -f "$RUN/$1.pid"
}
wait_for() { # wait_for SECONDS WHAT COMMAND...
  local tries=$(($1 * 10)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo "test cluster: $what did not come up; see $LOG" >&2; return 1; }
    sleep 0.1
  done
}
