#!/usr/bin/env bash
# Train on a Slurm cluster in as many jobs as it takes: each saves before its time is over and is queued again.
#
#   sbatch --gres=gpu:1 --time=04:00:00 scripts/slurm_train.sh --config configs/gemma3_1b_24gb.yaml
#   LAUNCH="accelerate launch --config_file configs/accelerate/ddp_2gpu.yaml" sbatch --gres=gpu:2 … scripts/slurm_train.sh …
#
# Submit it from the repository's folder. Everything after the script's name goes to SCRIPT (train_grpo_en_ta.py).
#   LAUNCH   what runs SCRIPT              default: .venv/bin/python
#   SCRIPT   e.g. "-m recipes.translategemma.train"
#   RUNS     folder that the run folder is in; default runs
#   MAX_HOURS   name of the setting for the time that is left; default max_hours, for the recipe give rl.max_hours
#
# Two things end the training in time. Where Slurm tells when the job ends (SLURM_JOB_END_TIME), max_hours is set from it:
# training stops early enough for a cycle and a save, with status 75. And fifteen minutes before the end
# (--signal=B:USR1@SECONDS) Slurm sends this script SIGUSR1, and the script sends the training SIGTERM. The job is then
# queued again, under the same id, if it sealed a new checkpoint; the next one resumes from there. Everything else ends
# it: a finished run, an error, a stop long before the end (on_divergence, also status 75), scancel. Slurm itself repeats
# a job whose node failed or that was preempted.
#SBATCH --job-name=rl-nmt
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@900
set -uo pipefail

runs=${RUNS:-runs}
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "error: SLURM_JOB_ID is not set; submit this file with sbatch" >&2
    exit 2
fi
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-900} # torchrun kills after 30 seconds

newest_checkpoint() { # a new one is progress
    find "$runs" -path '*/checkpoint-*/manifest.json' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1
}

left=() late=''
if [[ -n ${SLURM_JOB_END_TIME:-} ]]; then
    seconds=$((SLURM_JOB_END_TIME - $(date +%s) - 300))
    if ((seconds <= 0)); then
        echo "error: less than five minutes are left of the job's time; ask for more with --time" >&2
        exit 2
    fi
    late=$((SLURM_JOB_END_TIME - (seconds + 300) / 4)) # before the last quarter, status 75 is not max_hours
    left=("--${MAX_HOURS:-max_hours}" "$(printf '%d.%04d' $((seconds / 3600)) $((seconds % 3600 * 10000 / 3600)))")
fi

before=$(newest_checkpoint)
training='' warned=''
trap 'warned=yes; [[ -z $training ]] || kill -TERM "$training" 2>/dev/null' USR1
trap : TERM # scancel and preemption: Slurm signals every process, and the shell must outlive the save
# LAUNCH and SCRIPT may be several words
# shellcheck disable=SC2086
${LAUNCH:-.venv/bin/python} ${SCRIPT:-train_grpo_en_ta.py} "$@" "${left[@]}" &
training=$!
while kill -0 "$training" 2>/dev/null; do # not `wait`: bash loses the status of a job that ends while a signal arrives
    sleep 1
done
wait "$training"
status=$?
# 143: stopped by SIGTERM; 1 is all that torchrun and accelerate return
if [[ $status == 75 && -n $late ]] && (($(date +%s) >= late)); then
    warned=yes
fi
if [[ -z $warned || ! $status =~ ^(1|75|143)$ ]]; then
    exit "$status"
fi
if [[ $(newest_checkpoint) == "$before" ]]; then
    echo "error: no new checkpoint below $runs (RUNS) in this job, so the next one would not get further;" \
        "ask for more --time, or warn earlier with --signal=B:USR1@SECONDS" >&2
    exit "$status"
fi
echo "stopped in time: queueing job $SLURM_JOB_ID again"
scontrol requeue "$SLURM_JOB_ID" || exit "$status"
