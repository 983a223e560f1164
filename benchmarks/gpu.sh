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
# TCGA-PRAD (69 patches) take about 30 GB. A run that does not fit is reported and the others go on. The runs that
# matter most come first; SECONDS_LEFT ends the whole after that many seconds, and names what was left out.

set -u -o pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu_results}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
limit=${SECONDS_LEFT:-3600}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"
if [ "$device" = cuda ]; then
    "$python" -c 'import torch; assert torch.cuda.is_available(), "PyTorch sees no CUDA GPU"' || exit
fi

failed=0
run() { # NAME PROGRAM OPTIONS...
    local name=$1 program=$2 start=$SECONDS
    local left=$((limit - SECONDS))
    shift 2
    if [ $left -lt 15 ]; then
        echo "== $name: left out, $left s were left"
        failed=1
        return
    fi
    echo "== $name"
    timeout "$left" "$python" "benchmarks/$program" --device "$device" "$@" --output "$out/$name.json" 2>&1 |
        tee "$out/$name.log" || failed=1
    echo "== $name: $((SECONDS - start)) s"
}

# Patches ready on the device, at the bundles' batch size: the networks against their arithmetic limit.
ready=(--cropped --chunk-size 512 --pass-patches 1000 --repeats 10)
for bundle in bach tcga_prad; do
    run "$bundle-amp-8" epoch.py --bundle $bundle "${ready[@]}" --amp --batch-size 8 --training-batch-size 8
done

# Where the time goes when patches are cut from pictures in memory, by the processor, while the GPU waits.
memory=(--amp --batch-size 8 --chunk-size 512 --pass-patches 1000 --repeats 5)
for bundle in bach tcga_prad; do
    run "$bundle-read" epoch.py --bundle $bundle "${memory[@]}" --training-batch-size 8
    run "$bundle-parts" sampling.py --bundle $bundle "${memory[@]}"
done

# Batch sizes to saturation.
for bundle in bach tcga_prad; do
    for batch in 1 4; do
        run "$bundle-amp-$batch" epoch.py --bundle $bundle "${ready[@]}" --amp --batch-size $batch --training-batch-size $batch
    done
done

# What each option is worth.
ready+=(--batch-size 8 --training-batch-size 8)
for bundle in bach tcga_prad; do
    run "$bundle-float32" epoch.py --bundle $bundle "${ready[@]}" --phases inference
    run "$bundle-amp-light" epoch.py --bundle $bundle "${ready[@]}" --amp --phases inference --thumbnail-backbone mobilenetv3_small_100
    run "$bundle-amp-channels-first" epoch.py --bundle $bundle "${ready[@]}" --amp --channels-first
done
for bundle in bach tcga_prad; do
    run "$bundle-amp-compiled" epoch.py --bundle $bundle "${ready[@]}" --amp --compile --phases inference
done
exit $failed
