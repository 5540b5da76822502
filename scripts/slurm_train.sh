#!/usr/bin/env bash
# Train on a Slurm cluster in as many jobs as it takes: each stops in time, saved, and queues the next.
#
#   sbatch --gres=gpu:1 --time=04:00:00 scripts/slurm_train.sh --config configs/gemma3_1b_24gb.yaml
#   LAUNCH="accelerate launch --config_file configs/accelerate/ddp_2gpu.yaml" sbatch --gres=gpu:2 … scripts/slurm_train.sh …
#
# Submit it from the repository's folder. Everything after the script's name goes to SCRIPT (train_grpo_en_ta.py).
#   LAUNCH   what runs SCRIPT              default: .venv/bin/python
#   SCRIPT   e.g. "-m recipes.translategemma.train" (its MAX_HOURS is rl.max_hours)
#   RUNS     folder that the run folder is in; default runs
#   MARGIN   minutes before the job's end at which training stops and saves; default 15
#
# Exit status 75 (stopped in time) and 143 (SIGTERM) requeue the job, if it sealed a new checkpoint; all others end it.
#SBATCH --job-name=rl-nmt
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
set -uo pipefail

launch=${LAUNCH:-.venv/bin/python} script=${SCRIPT:-train_grpo_en_ta.py} margin=${MARGIN:-15}
hours_flag=${MAX_HOURS:-max_hours}
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "error: SLURM_JOB_ID is not set; submit this file with sbatch" >&2
    exit 2
fi
left=()
if [[ -n ${SLURM_JOB_END_TIME:-} ]]; then
    seconds=$((SLURM_JOB_END_TIME - $(date +%s) - 60 * margin))
    if ((seconds <= 0)); then
        echo "error: less than $margin minutes are left of the job's time; ask for more with --time, or set MARGIN" >&2
        exit 2
    fi
    left=("--$hours_flag" "$(printf '%d.%04d' $((seconds / 3600)) $((seconds % 3600 * 10000 / 3600)))")
fi

newest_checkpoint() { # a new one is progress
    find "${RUNS:-runs}" -path '*/checkpoint-*/manifest.json' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1
}

before=$(newest_checkpoint)
# shellcheck disable=SC2086  (LAUNCH and SCRIPT may be several words)
$launch $script "$@" "${left[@]}" &
training=$!
trap 'kill -TERM "$training" 2>/dev/null' TERM # Slurm's warning before the end: training saves and stops
wait "$training"
status=$?
while kill -0 "$training" 2>/dev/null; do # the trap ended `wait`, not the training
    wait "$training"
    status=$?
done
case $status in
    75 | 143)
        if [[ $(newest_checkpoint) == "$before" ]]; then
            echo "error: no new checkpoint in this job, so the next one would not get further; use smaller save_steps" >&2
            exit "$status"
        fi
        echo "stopped with status $status: requeueing job $SLURM_JOB_ID"
        scontrol requeue "$SLURM_JOB_ID" || exit "$status"
        ;;
    *) exit "$status" ;;
esac
