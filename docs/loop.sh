#!/usr/bin/env bash
# The whole loop on one machine: play a drive, record on triggers, recover after a kill -9, fine-tune without labels,
# replay both weights, promote the better ones, swap them in the running node, roll back. See loop.md.
#
#   docs/loop.sh FOLDER
#
# Variables: PAIRS (folder of stereo pairs with calibration; default: a rendered drive), BEGIN, TRAIN and HELD_OUT (frames
# of it until the power cut, after it, and to decide by), RATE (Hz of the pairs), SPEED (of the player), WEIGHTS (what the robot runs), LENGTH
# (options that give the training its length), TUNE and PROMOTE (further options of these), MODEL (of the depth node), SIZE
# (of the rendered drive).
set -euo pipefail

FOLDER=${1:?"name a folder for everything that is made: docs/loop.sh FOLDER"}
PYTHON=${PYTHON:-python3}
PAIRS=${PAIRS:-}
BEGIN=${BEGIN:-0:24} TRAIN=${TRAIN:-24:80} HELD_OUT=${HELD_OUT:-84:} RATE=${RATE:-10} SPEED=${SPEED:-0.5}
WEIGHTS=${WEIGHTS:-depthnet_efficient} LENGTH=${LENGTH:---steps 150 --validate-steps 15 --validate-minutes 600} TUNE=${TUNE:-} PROMOTE=${PROMOTE:-}
MODEL=${MODEL:-flownet_stereo} SIZE=${SIZE:-480x160}

export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-87}
fg_depth() { "$PYTHON" -m fg_depth_ros.cli "$@"; }
step() { printf '\n== %s\n' "$*"; }
wait_for() { # seconds, what for, command
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < end)) || { echo "loop.sh: waited in vain for $what; see $FOLDER/*.log" >&2; exit 1; }
        sleep 0.2
    done
}
recording() { find "$FOLDER/recordings" -path '*/.episode_*.part/*.mcap' -size +100k | grep -q .; } # with pairs on disk
wait_for_node() { "$PYTHON" -m fg_depth_ros.apps.node_status "$@" --timeout 120; } # its keys on /diagnostics
node() { # module, log, parameters
    local module=$1 log=$2
    shift 2
    "$PYTHON" -m "fg_depth_ros.nodes.$module" --ros-args "$@" > "$FOLDER/$log" 2>&1 &
    NODES+=($!)
}
logger() { node data_logger.node "$@" -p "root:=$FOLDER/recordings" -p free_floor:=0.1; }
player() { # log, bag, parameters
    local log=$1 bag=$2
    shift 2
    node players.bag_player "$log" -p "bags:=[$FOLDER/$bag]" -p publish_clock:=false "$@"
}
NODES=()
end_nodes() { for pid in "${NODES[@]}"; do kill -INT "$pid" 2> /dev/null && wait "$pid" || true; done; NODES=(); }
trap end_nodes EXIT
mkdir -p "$FOLDER"

step "1. a drive, as bags: two to record from, one to decide by"
if [ -z "$PAIRS" ]; then
    PAIRS=$FOLDER/rendered
    fg_depth synth world --kind street --drive --count 104 --size "$SIZE" --seed 3 --out "$PAIRS"
fi
fg_depth bag from-images "$PAIRS" --frames "$BEGIN" --rate "$RATE" --out "$FOLDER/begin"
fg_depth bag from-images "$PAIRS" --frames "$TRAIN" --rate "$RATE" --out "$FOLDER/drive"
fg_depth bag from-images "$PAIRS" --frames "$HELD_OUT" --rate "$RATE" --out "$FOLDER/held_out"

step "2. the robot: depth node and logger; a drive is played, episodes are recorded when a trigger fires"
case $WEIGHTS in *.safetensors) MONO=(-p "mono_weights:=$WEIGHTS") ;; *) MONO=(-p "mono_model:=$WEIGHTS") ;; esac
node stereo_depth.node depth.log -p "model:=$MODEL" "${MONO[@]}"
wait_for_node stereo_depth_node state=active
logger logger.log -p disagreement_abs_rel:=0.15 -p interval_period:=2.0 -p before:=1.0 -p after:=4.0 -p cooldown:=0.5
LOGGER=$!
wait_for_node data_logger_node state=active
player player.log begin -p "rate:=$SPEED" -p wait_for_subscribers:=1
PLAYER=$!
wait_for 120 "a trigger" recording

step "3. power cut: the logger is killed in the middle of an episode, and what it wrote is recovered"
kill -9 "$LOGGER"
wait "$LOGGER" 2> /dev/null || true
fg_depth recover "$FOLDER/recordings"
wait "$PLAYER"
# The drive goes on, and all of it is recorded: how long a machine takes to start a node does not matter.
logger logger2.log -p record:=continuous
LOGGER=$!
wait_for_node data_logger_node state=active
player player2.log drive -p "rate:=$SPEED" -p wait_for_subscribers:=1
wait $!
kill -INT "$LOGGER" && wait "$LOGGER" || true # its episode is completed
fg_depth bag check "$FOLDER/recordings"

step "4. fine-tune without labels"
# shellcheck disable=SC2086
fg_depth finetune --bags "$FOLDER/recordings" --weights "$WEIGHTS" $LENGTH $TUNE --out "$FOLDER/tuned"

step "5. replay both weights"
OLD=(--model "$WEIGHTS")
case $WEIGHTS in *.safetensors) OLD=(--model flownet_stereo --weights "$WEIGHTS") ;; *) OLD+=(--model flownet_stereo) ;; esac
fg_depth replay "$FOLDER/held_out" "${OLD[@]}" --weights "$FOLDER/tuned/weights.safetensors" --out "$FOLDER/report"

step "6. promote, and swap in the running node"
# The node loads the depth network when somebody first listens to what it makes.
player player3.log held_out -p loop:=true
# shellcheck disable=SC2086
fg_depth promote "$FOLDER/tuned/weights.safetensors" --against "$WEIGHTS" --bags "$FOLDER/held_out" \
    --margin-latency 0 $PROMOTE --store "$FOLDER/store" --node /stereo_depth_node
fg_depth deployed --store "$FOLDER/store"

step "7. roll back"
fg_depth rollback --store "$FOLDER/store" --node /stereo_depth_node --why "the end of the walk"
fg_depth deployed --store "$FOLDER/store"
