#!/usr/bin/env bash
# Runs this machine's part of an experiment by hand, as eval/run.sh of the reference system does.
#
# Start it on all machines at once, with the same files: each finds itself in ip.json (the file
# that addresses_filepath of the INI names), and training begins when all are there. What stands
# below may be edited, or given in the environment; further arguments go to `decentralizepy run`:
#
#   CONFIG=my.ini GRAPH=16_4regular.edges MACHINES=2 ITERATIONS=100 scripts/run.sh --workers 4
#
# On a network add --key FILE, equal on all machines (`decentralizepy keys` makes it), or set
# encryption = none in [COMMUNICATION].
set -euo pipefail

PYTHON=${PYTHON:-python}                  # with decentralizepy installed
CONFIG=${CONFIG:-config.ini}              # what to train
GRAPH=${GRAPH:-36_nodes.edges}            # who talks to whom
GRAPH_TYPE=${GRAPH_TYPE:-edges}           # edges or adjacency
EVAL_FILE=${EVAL_FILE:-testing.py}        # the driver
MACHINES=${MACHINES:-1}
PROCS_PER_MACHINE=${PROCS_PER_MACHINE:-}  # nodes on each, as 8 or 4,4,8; empty: spread evenly
ITERATIONS=${ITERATIONS:-1}
TEST_AFTER=${TEST_AFTER:-10}
TRAIN_EVALUATE_AFTER=${TRAIN_EVALUATE_AFTER:-$TEST_AFTER}
AVERAGING_ROUNDS=${AVERAGING_ROUNDS:-1}
RESET_OPTIMIZER=${RESET_OPTIMIZER:-0}
LOG_LEVEL=${LOG_LEVEL:-INFO}
LOGS=${LOGS:-logs/$(date +%Y-%m-%dT%H:%M)} # this machine writes into machine<M> below it
MACHINE_ID=${MACHINE_ID:-}                # empty: by this machine's addresses

if [ -z "$MACHINE_ID" ]; then
  MACHINE_ID=$("$PYTHON" -m decentralizepy where "$CONFIG" -ms "$MACHINES" --here)
fi
log_dir=$LOGS/machine$MACHINE_ID

arguments=(
  -mid "$MACHINE_ID" -ms "$MACHINES" -cf "$CONFIG" -gf "$GRAPH" -gt "$GRAPH_TYPE"
  --eval_file "$EVAL_FILE" -is "$ITERATIONS" -ta "$TEST_AFTER" -tea "$TRAIN_EVALUATE_AFTER"
  -as "$AVERAGING_ROUNDS" -ro "$RESET_OPTIMIZER" -ll "$LOG_LEVEL" -ld "$log_dir" -wsd "$log_dir"
)
if [ -n "$PROCS_PER_MACHINE" ]; then
  arguments+=(-ps "$PROCS_PER_MACHINE")
fi
exec "$PYTHON" -m decentralizepy run "${arguments[@]}" "$@"
