#!/usr/bin/env bash
# The paths of a GPU, tried and timed in under 6 minutes, on a machine with PyTorch and no network:
#
#     bash bench/gpu.sh [folder of wheels] [part ...]
#
# Parts, in this order if none is named (each has its own time limit, and runs even if the one before failed):
#     training   bench/gpu.py: steps beside bare steps, utilisation, memory, RECOLA's three runs       3 minutes
#     tests      pytest -m cuda: gradients, runs, resuming, precision, faces agree with the CPU's       1 minute
#     road       demo.py --quick: every script, from drawn videos to the comparison                     1 minute
#     predict    bench/predict.py --device cuda: frames per second from video to table                  1 minute
#     frozen     only if named: bench/frozen.py, steps on features and with the backbone in every step  1 minute
#     demo       only if named: all of demo.py                                                          2 minutes
#
# Writes gpu.md (Markdown for bench/README.md) and gpu.log (everything) into $OUT, or bench/out.
#
# Needs PyTorch 2.11 or later with its torchvision (training on several GPUs needs 2.14) and what requirements.txt names
# beside it, with pytest and hypothesis; nvidia-ml-py for the utilisation. Packages that are missing can lie beside it as
# wheels: where there is a network, for Python 3.12 on Linux,
#
#     pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#         --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
#         --platform manylinux2014_x86_64 -d wheels facenet-pytorch==2.5.3 av==18.1.0 soundfile librosa==0.11.0 \
#         audioread pooch platformdirs soxr decorator cffi pycparser vl-convert-python
#
# and here `bash bench/gpu.sh wheels`. They are installed into a temporary folder. Environment: OUT, WHEELS, PYTHON
# (python3), BENCH_DEVICE (cuda; with cpu everything runs in small, to try this script), TRAINING_S (140; seconds after
# which the training bench begins no other network).

cd "$(dirname "$0")/.." || exit 1
export PYTHONUNBUFFERED=1 PYTHONPATH
PYTHON=${PYTHON:-python3} OUT=${OUT:-bench/out} DEVICE=${BENCH_DEVICE:-cuda}
if [ -d "$1" ]; then WHEELS=$1; shift; fi
PARTS=${*:-training tests road predict}
mkdir -p "$OUT"
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
: >"$OUT/gpu.md" >"$OUT/gpu.log"
FAILED=

both() { tee -a "$OUT/gpu.md" "$OUT/gpu.log"; }  # a line of the table; everything else goes into the log alone

# part name seconds command...: runs a command with a time limit; what it prints is logged, and how it ended is said
part() {
    local name=$1 limit=$2 began=$SECONDS code
    shift 2
    printf '\n==== %s: %s\n' "$name" "$*" | tee -a "$OUT/gpu.log"
    timeout -k 10 "$limit" "$@" > >(tee -a "$OUT/gpu.log" "$SCRATCH/$name.txt") 2> >(tee -a "$OUT/gpu.log" >&2)
    code=$?
    sleep 0.3  # the last lines of tee
    LAST="$name: $([ $code = 0 ] && echo done || echo "FAILED with exit code $code") in $((SECONDS - began)) s"
    [ $code = 124 ] && LAST="$LAST (time limit)"
    [ $code = 0 ] || FAILED="$FAILED $name"
}

install_wheels() {
    [ -n "$WHEELS" ] || return 0
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$SCRATCH/site" \
        "$WHEELS"/*.whl
}

check_imports() {
    "$PYTHON" - "$DEVICE" <<'PY'
import importlib
import sys

missing = []
for name in ("torch torchvision numpy pandas scipy cv2 av soundfile librosa librosa.filters facenet_pytorch matplotlib "
             "tqdm PIL pytest hypothesis jinja2 vl_convert").split():
    try:
        importlib.import_module(name)
    except Exception as error:
        missing.append(f"{name} ({type(error).__name__}: {error})")
if missing:
    print("cannot be imported here:", *missing, "put their wheels into a folder, see the top of bench/gpu.sh",
          sep="\n    ")
import torch
found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
if found < (2, 11):
    print(f"torch {torch.__version__} is older than 2.11")
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("torch finds no CUDA device: nothing to measure (BENCH_DEVICE=cpu tries the script)")
PY
}

training() {
    local small=
    [ "$DEVICE" = cuda ] || small=--small
    part training 220 "$PYTHON" bench/gpu.py --device "$DEVICE" --seconds "${TRAINING_S:-140}" $small
    cat "$SCRATCH/training.txt" >>"$OUT/gpu.md"
    printf '\n%s\n' "$LAST" | both
}

tests() {
    local on=
    [ "$DEVICE" = cuda ] || on="env CUDA_TESTS_ON=$DEVICE"
    part tests "${TESTS_LIMIT:-130}" $on "$PYTHON" -m pytest -q -m cuda tests/test_cuda.py --durations=5 -p no:cacheprovider
    { printf '\n%s; %s\n' "$LAST" "$(grep -E '^[0-9].* (passed|failed|error|skipped)' "$SCRATCH/tests.txt" | tail -1)"
      grep -E '^(FAILED|ERROR)' "$SCRATCH/tests.txt" | cut -c1-200
      grep -E '^    test_' "$SCRATCH/tests.txt" | sed 's/^    /- /'; } | both
}

# Seconds of every script that demo.py called, as Markdown
road_table() { awk '/^\$ python /{name=$3} / s$/&&NF==2&&name{print "- " name " " $1 " s"; name=""}' "$SCRATCH/$1.txt"; }

road() {
    part road 90 "$PYTHON" demo.py --quick --data-dir "$SCRATCH/road"
    { printf '\n%s: demo.py --quick\n' "$LAST"; road_table road; } | both
}

demo() {
    part demo 240 "$PYTHON" demo.py --data-dir "$SCRATCH/demo"
    { printf '\n%s: demo.py\n' "$LAST"; road_table demo; grep -A 6 'subjects never trained on' "$SCRATCH/demo.txt"; } | both
}

predict() {
    local sizes="--seconds 30"
    [ "$DEVICE" = cuda ] || sizes="--seconds 3 --rounds 1"
    part predict 90 "$PYTHON" bench/predict.py --device "$DEVICE" $sizes
    { printf '\n%s: bench/predict.py\n```\n' "$LAST"; tail -40 "$SCRATCH/predict.txt"; echo '```'; } | both
}

frozen() {
    local sizes="--seconds 20"
    [ "$DEVICE" = cuda ] || sizes="--seconds 2 --backbones resnet18"
    part frozen 100 "$PYTHON" bench/frozen.py --device "$DEVICE" $sizes
    { printf '\n%s: bench/frozen.py\n```\n' "$LAST"; cat "$SCRATCH/frozen.txt"; echo '```'; } | both
}

install_wheels 2>&1 | tee -a "$OUT/gpu.log"
[ -d "$SCRATCH/site" ] && PYTHONPATH=$SCRATCH/site${PYTHONPATH:+:$PYTHONPATH}
check_imports 2>&1 | tee -a "$OUT/gpu.log"
[ "${PIPESTATUS[0]}" = 0 ] || exit 1
for name in $PARTS; do
    case $name in
        training | tests | road | predict | frozen | demo) "$name" ;;
        *) echo "there is no part $name: training tests road predict frozen demo" >&2; exit 2 ;;
    esac
done
printf '\n==== gpu.md, after %s s\n' "$SECONDS"
cat "$OUT/gpu.md"
if [ -n "$FAILED" ]; then echo "FAILED:$FAILED"; exit 1; fi
