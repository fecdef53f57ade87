#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks and measures the CUDA half of this package on a machine with a GPU, without a network:
#
#   tools/gpu_check.sh      from the root of a checkout
#
# $OUT (default: runs/gpu) gets a log of each step, tables as CSV, and `summary` with a line for each
# step. Every step has a time limit, and all of them together $LIMIT seconds (default: 480). A failed
# step does not stop the others, except for those that need its result. A step is skipped, with the
# reason in the summary, where its tool or the GPU is missing.
#
# Exit status: 0 if no step failed, 1 if one did, 77 if there is no usable GPU.
#
# Needs Python 3.10 or newer with torch (CUDA), scikit-build-core, pybind11, pytest and timm, and
# nvcc, CMake, Ninja and a C++ compiler; compute-sanitizer and ncu where they are.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu}
LIMIT=${LIMIT:-480}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT" build/gpu
OUT=$(cd "$OUT" && pwd)
: >"$OUT/summary"
site=$PWD/build/gpu/site
driver=build/gpu/device_check
# The package as it is built here, not the source in this folder.
export PYTHONPATH=$site PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
export RSVHEAT_REQUIRE_NATIVE=1 RSVHEAT_FAIL_WITHOUT_CUDA=1
failed=0

note() { echo "$*" | tee -a "$OUT/summary"; }

# skip NAME REASON
skip() { note "$1 skipped: $2"; }

# step SECONDS NAME COMMAND...
step() {
  local limit=$1 name=$2 begin=$SECONDS status
  shift 2
  if ((SECONDS + 5 > LIMIT)); then
    skip "$name" "the $LIMIT seconds of all steps are over"
    return 1
  fi
  ((limit > LIMIT - SECONDS)) && limit=$((LIMIT - SECONDS))
  timeout -k 5 "$limit" "$@" >"$OUT/$name.log" 2>&1
  status=$?
  if ((status == 0)); then
    note "$name passed in $((SECONDS - begin)) s: $(tail -n 1 "$OUT/$name.log")"
  elif ((status == 124 || status == 137)); then
    failed=1
    note "$name FAILED: more than $limit s"
  else
    failed=1
    note "$name FAILED with status $status in $((SECONDS - begin)) s: $(tail -n 1 "$OUT/$name.log")"
  fi
  return $status
}

# needs NAME TOOL: whether TOOL is on the path; skips NAME if not.
needs() {
  command -v "$2" >/dev/null && return 0
  skip "$1" "$2 is not on the path"
  return 1
}

machine() {
  set -e
  nvidia-smi
  nproc
  "${CXX:-g++}" --version | head -n 1
  nvcc --version | tail -n 2
  "$PYTHON" -c 'import sys, torch
print(sys.version, torch.__version__)
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())'
}

build_package() {
  CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=$arch-real" RSVHEAT_CUDA=ON "$PYTHON" -m pip install \
    -q --no-index --no-build-isolation --no-deps --upgrade --target "$site" . &&
    "$PYTHON" -c 'import rsvheat; print(rsvheat.build_info())'
}

# A program without torch, so that compute-sanitizer and ncu see these kernels alone.
build_driver() {
  local flags="-std=c++20 -O3 -lineinfo -arch=sm_$arch -I csrc"
  {
    echo tests/cpp/device_check.cpp
    ls csrc/core/cuda/*.cu
  } | xargs -P "$(nproc)" -I{} bash -c '
    case {} in */boxes_iou.cu | */boxes_nms.cu) exact=-fmad=false ;; *) exact= ;; esac
    nvcc '"$flags"' $exact -c {} -o build/gpu/$(basename {}).o' &&
    nvcc -arch="sm_$arch" -o "$driver" build/gpu/*.o -L "$site/rsvheat" -lrsvheat_core -lcufft \
      -Xlinker -rpath="$site/rsvheat" &&
    echo "$driver is built"
}
export -f machine build_package build_driver
export PYTHON OUT site driver

steps=(machine build smoke driver_build driver memcheck tests operators modes pretraining boxes
  racecheck counters)

no_gpu() {
  local name
  for name in "${steps[@]}"; do
    grep -q "^$name " "$OUT/summary" || skip "$name" "$1"
  done
  exit 77
}

command -v nvidia-smi >/dev/null || no_gpu "no usable GPU: nvidia-smi is not on the path"
command -v nvcc >/dev/null || no_gpu "nothing can be built: nvcc is not on the path"
step 30 machine bash -c machine || no_gpu "no usable GPU: see machine.log"
arch=$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
export arch

if ! step 200 build bash -c build_package; then
  for name in "${steps[@]:2}"; do skip "$name" "the build failed"; done
  exit 1
fi

# Every operator, path and type against float64 on poisoned memory.
step 60 smoke "$PYTHON" tools/gpu_smoke.py

have_driver=0
if step 100 driver_build bash -c build_driver; then
  have_driver=1
  step 20 driver "$driver"
else
  skip driver "it was not built"
fi

# sanitize TOOL SECONDS
sanitize() {
  needs "$1" compute-sanitizer || return
  if ((have_driver)); then
    step "$2" "$1" compute-sanitizer --tool "$1" --error-exitcode 9 "$driver"
  else
    skip "$1" "the driver was not built"
  fi
}
sanitize memcheck 40

parallel=()
"$PYTHON" -c 'import xdist' 2>/dev/null && parallel=(-n 8)
step 120 tests "$PYTHON" -m pytest -q "${parallel[@]}" --maxfail=60 -p no:cacheprovider \
  -m "cuda and not slow" -k "not inductor and not compile" tests/ops tests/models

step 50 operators "$PYTHON" benchmarks/run.py heat_conduction --device cuda \
  --dtype float32 bfloat16 --rows twin matmul --repeats 15 --write --results "$OUT"
step 70 modes "$PYTHON" benchmarks/device.py modes --rounds 5 --seconds 55 \
  --output "$OUT/modes.csv"
step 30 pretraining "$PYTHON" benchmarks/device.py pretraining --sizes 224 --batch_sizes 64 256 \
  --output "$OUT/pretraining.csv"
step 30 boxes "$PYTHON" benchmarks/device.py boxes --output "$OUT/boxes.csv"

sanitize racecheck 40

# Time, instructions and traffic of the first kernels of some operators.
counters() {
  local metrics=gpu__time_duration.sum,smsp__inst_executed.sum,dram__bytes_read.sum,dram__bytes_write.sum
  local name
  for name in heat boxes roi norm correction; do
    ncu --csv --metrics $metrics --launch-count 4 "$driver" "$name" || return
  done
}
export -f counters
if needs counters ncu; then
  if ((have_driver)); then
    step 40 counters bash -c counters
  else
    skip counters "the driver was not built"
  fi
fi
exit "$failed"
