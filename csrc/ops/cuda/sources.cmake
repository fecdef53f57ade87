# SPDX-License-Identifier: Apache-2.0
# Registration of the CUDA kernels with torch, relative to the top of the tree.
set(RSVHEAT_CUDA_OPS_SOURCES
    csrc/ops/cuda/boxes.cpp
    csrc/ops/cuda/dct.cpp
    csrc/ops/cuda/frequency_split.cpp
    csrc/ops/cuda/heat_conduction.cpp
    csrc/ops/cuda/layer_norm.cpp
    csrc/ops/cuda/spatial_correction.cpp
    csrc/ops/cuda/spectral_l1.cpp)
