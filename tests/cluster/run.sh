#!/usr/bin/env bash
# Start a Slurm cluster of one node on the loopback, install Ray beside .venv, and run the tests of both.
#   bash tests/cluster/run.sh [options of pytest]
# What cannot be started here is said, and its tests are skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/sbin
say() { echo "cluster-test: $*" >&2; }

# Ray in an environment over .venv: its launcher asks for an older cloudpickle than joblib wants, and runs with the newer.
python=.cache/cluster/bin/python
if ! "$python" -c 'import ray' 2>/dev/null; then
  rm -rf .cache/cluster
  .venv/bin/python -m venv --without-pip .cache/cluster
  purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
  .venv/bin/python -c "$purelib" > "$("$python" -c "$purelib")/venv.pth"
  .venv/bin/uv pip install --quiet --python "$python" --no-deps ray msgpack hydra-ray-launcher ||
    say "Ray could not be installed; its tests are skipped"
fi

if ! type slurmctld slurmd munged &> /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  say "installing slurm-wlm and munge"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge
  } > .cache/cluster/apt.log 2>&1 || say "apt-get failed (.cache/cluster/apt.log)"
fi
if [ "$(id -u)" != 0 ] || ! type slurmctld slurmd munged &> /dev/null; then
  say "no Slurm: it is started by root, from the packages slurm-wlm and munge; its tests are skipped"
else
  state=$(mktemp -d)
  chmod 755 "$state"
  mkdir "$state/controller" "$state/node"
  stop() {
    for daemon in slurmctld slurmd munged; do
      if [ -s "$state/$daemon.pid" ]; then kill "$(cat "$state/$daemon.pid")" || true; fi
    done
    sleep 1
    rm -rf "$state"
  }
  trap stop EXIT
  (umask 077 && head -c 1024 /dev/urandom > "$state/key")
  munged --force --key-file="$state/key" --socket="$state/munge" --pid-file="$state/munged.pid" \
    --log-file="$state/munged.log" --seed-file="$state/seed"
  export SLURM_CONF=$state/slurm.conf
  host=$(hostname -s)
  # cred_expire: a job that is put back into the queue waits for so long, in place of two minutes.
  cat > "$SLURM_CONF" << CONF
ClusterName=symlora
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17817
SlurmdPort=17818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$state/munge,cred_expire=5
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/node
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MinJobAge=3600
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc)
PartitionName=main Nodes=$host Default=YES State=UP
CONF
  slurmctld
  slurmd
  export PATH=$PWD/tests/cluster:$PATH # sacct
fi

"$python" -m pytest -m cluster tests/test_cluster.py "$@"
