#!/bin/bash
# Spends MINUTES of a borrowed machine on a stage, and ends by itself in time.
#
#     training/on_gpu.sh MINUTES STAGE RECIPE [options of causalcine train, such as --set run.steps=2000]
#
# It goes on with the run that is due: where build/on_gpu/STAGE holds a state, with that; else with the pieces in CARRIED/STAGE
# (training.pack); else it begins, with CARRIED/begin.safetensors where there is one. Beside the training all other cores draw films
# and stills, which the codec CARRIED/vae.safetensors encodes; the trainer takes them in as they appear. In OUT it leaves the pieces
# of the state (averaged weights), log.jsonl, the last sheet and what was printed.
#
# Settings: CARRIED (build/carried), OUT (build/out), PYTHON, WORKERS (cores that draw), RESERVE (seconds kept for saving and packing),
# PACK (options of training.pack, such as --compact), STILLS_A_SHARD, FILMS_A_SHARD, SIZE (of pictures), ROOM (build/on_gpu).
set -euo pipefail
set -m # each job in the background is a process group, which can be ended with all that it began
minutes=$1 stage=$2 recipe=$3
shift 3
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} carried=${CARRIED:-build/carried} out=${OUT:-build/out} room=${ROOM:-build/on_gpu}
workers=${WORKERS:-$(($(nproc) > 2 ? $(nproc) - 1 : 1))} reserve=${RESERVE:-25} size=${SIZE:-96x96} pack=${PACK:-}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
deadline=$(awk "BEGIN { printf \"%d\", $(date +%s) + 60 * $minutes }")
left() { echo $((deadline - $(date +%s) - reserve)); }

work=$room/$stage data=$room/data vae=$carried/vae.safetensors
mkdir -p "$work" "$data" "$out"
begin=()
if [ ! -e "$work/state.pt" ] && [ -e "$carried/$stage/state.json" ]; then
    "$python" -m training.pack restore "$carried/$stage" "$work/state.pt"
elif [ -e "$carried/begin.safetensors" ]; then
    begin=(--start-from "$carried/begin.safetensors")
fi

jobs=()
trap 'for job in "${jobs[@]}"; do kill -- "-$job" 2>/dev/null || true; done' EXIT
draw() { # KIND COUNT WORKERS PER_SHARD
    OMP_NUM_THREADS=1 "$python" -m training.world shards --kind "$1" --count "$2" --workers "$3" --per-shard "$4" --size "$size" \
        --vae "$vae" --out "$data" --first-seed "$seed" --seconds "$(left)" >"$room/$1.log" 2>&1 &
    jobs+=($!)
}
if [ "$stage" != vae ]; then
    # what was drawn for earlier minutes of the run is not drawn again: a thousand seeds for each of its updates
    seed=$("$python" -c "import json, sys; print(1000000 + 1000 * json.load(open(sys.argv[1]))['step'])" \
        "$carried/$stage/state.json" 2>/dev/null || echo 1000000)
    few=$(((workers + 3) / 4))
    draw stills 40000 "$few" "${STILLS_A_SHARD:-0}"
    draw films 40000 "$((workers - few))" "${FILMS_A_SHARD:-0}"
    until ls "$data"/stills-*.safetensors "$data"/films-*.safetensors >/dev/null 2>&1; do
        for job in "${jobs[@]}"; do
            kill -0 "$job" 2>/dev/null || { cat "$room"/stills.log "$room"/films.log; echo "nothing was drawn"; exit 1; }
        done
        [ "$(left)" -gt 0 ] || { echo "the minutes were over before anything was drawn"; exit 1; }
        sleep 1
    done
    begin+=(--set "preview.vae=$vae")
fi

# It stops between updates when its time is over, and saves; an update that outlasts this is asked to end by a signal, a sheet is not
# waited for.
timeout --foreground -s TERM -k 3 "$(($(left) + reserve / 3))" "$python" -m causalcine_core train "$stage" "$recipe" --work "$work" \
    --data "$data" --resume "${begin[@]}" --set "run.max_seconds=$(left)" "$@" 2>&1 | tee "$out/train.log" ||
    [[ ${PIPESTATUS[0]} =~ ^(124|137)$ ]]
rm -rf "${out:?}/$stage"
"$python" -m training.pack save "$work/state.pt" "$out/$stage" $pack
[ "$stage" = vae ] || tail -n 1 "$room"/stills.log "$room"/films.log >>"$out/train.log"
cp "$work/log.jsonl" "$out/"
sheet=$(ls "$work"/preview-*.png 2>/dev/null | tail -1)
[ -z "$sheet" ] || cp "$sheet" "$out/"
