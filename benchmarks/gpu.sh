#!/usr/bin/env bash
# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Tables 5 and 6 of the paper, and what a step does beside its backbones, on a CUDA GPU:
#
#     bash benchmarks/gpu.sh [FOLDER]        a report (JSON) and its tables (log) of each run go to FOLDER (gpu_results)
#
# What must be there: this repository, and a Python of version 3.11 or newer (named by PYTHON) with the packages of
# install_requires in setup.cfg, where torch is a CUDA build. cuCIM is not needed, and the package itself need not be
# installed. Images and weights are random, and nothing is downloaded. To a machine without a network carry the
# repository (benchmarks, bundles and monai_jsma are enough) and the wheels of those packages that it lacks.
#
# Training on all patches at once holds about 0.11 GB a patch in float32, half of it with --amp: 8 pictures of
# TCGA-PRAD (69 patches) take about 30 GB. A run that does not fit is reported and the others go on.

set -u -o pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu_results}
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"
"$python" -c 'import torch; assert torch.cuda.is_available(), "PyTorch sees no CUDA GPU"' || exit

failed=0
run() { # NAME PROGRAM OPTIONS...
    local name=$1 program=$2
    shift 2
    echo "== $name"
    "$python" "benchmarks/$program" --device cuda "$@" --output "$out/$name.json" 2>&1 |
        tee "$out/$name.log" || failed=1
}

for bundle in bach tcga_prad; do
    # Batch sizes to saturation, patches ready on the device: the networks against their arithmetic limit.
    options=(--bundle $bundle --cropped --chunk-size 512 --pass-patches 1000 --repeats 10)
    for batch in 1 4 8; do
        run "$bundle-amp-$batch" epoch.py "${options[@]}" --amp --batch-size $batch --training-batch-size $batch
    done
    # What each option is worth, at the bundles' batch size.
    options+=(--batch-size 8 --training-batch-size 8)
    run "$bundle-float32" epoch.py "${options[@]}" --phases inference
    run "$bundle-amp-channels-first" epoch.py "${options[@]}" --amp --channels-first
    run "$bundle-amp-compiled" epoch.py "${options[@]}" --amp --compile --phases inference
    run "$bundle-amp-light" epoch.py "${options[@]}" --amp --phases inference --thumbnail-backbone mobilenetv3_small_100
    # Where the time goes when patches are cut from pictures in memory, by the processor, while the GPU waits.
    options=(--bundle $bundle --amp --batch-size 8 --chunk-size 512 --pass-patches 1000 --repeats 5)
    run "$bundle-read" epoch.py "${options[@]}" --training-batch-size 8
    run "$bundle-parts" sampling.py "${options[@]}"
done
exit $failed
