#!/bin/bash
# An MLflow server for a few people, on a file of its own: no database server, no container. It goes on in the foreground;
# on a login node start it in tmux, or where the rules ask for it as a job (`sbatch --wrap launch/mlflow_server.sh`).
# For a team, docker/compose.yaml has one with PostgreSQL.
#
#     launch/mlflow_server.sh [FOLDER] [PORT]
#
# Runs find it by tracking.uri=http://HOST:PORT, or by MLFLOW_TRACKING_URI. From elsewhere: ssh -L 5000:HOST:5000 LOGIN, and
# http://localhost:5000
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-mlflow}
port=${2:-5000}
mlflow=.venv/bin/mlflow
[ -x "$mlflow" ] || mlflow=$(command -v mlflow) || { echo "no mlflow here; run: make setup" >&2; exit 1; }
mkdir -p "$folder"
echo "tracking.uri=http://$(hostname -f):$port"
# Whoever reaches the port can read and change everything: keep it inside the cluster's network. The server answers only
# requests for names that it is told are its own.
exec "$mlflow" server \
    --backend-store-uri "sqlite:///$folder/mlflow.db" \
    --artifacts-destination "$folder/artifacts" --serve-artifacts \
    --host 0.0.0.0 --port "$port" \
    --allowed-hosts "localhost:$port,127.0.0.1:$port,$(hostname):$port,$(hostname -f):$port"
