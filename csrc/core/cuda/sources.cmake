# SPDX-License-Identifier: Apache-2.0
# The CUDA kernels, relative to the top of the tree. The emulation in tests/cpp/cuda_emulation
# compiles the same list as C++.
set(RSVHEAT_CUDA_CORE_SOURCES
    csrc/core/cuda/boxes_iou.cu
    csrc/core/cuda/boxes_nms.cu
    csrc/core/cuda/dct.cu
    csrc/core/cuda/fft_transform.cu
    csrc/core/cuda/frequency_split.cu
    csrc/core/cuda/heat_conduction.cu
    csrc/core/cuda/layer_norm.cu
    csrc/core/cuda/line_kernels.cu
    csrc/core/cuda/line_kernels_long.cu
    csrc/core/cuda/line_kernels_short.cu
    csrc/core/cuda/matrix_kernels.cu
    csrc/core/cuda/plan_cache.cu
    csrc/core/cuda/roi_align.cu
    csrc/core/cuda/spatial_correction.cu
    csrc/core/cuda/spatial_correction_backward.cu
    csrc/core/cuda/spectral_l1.cu
    csrc/core/cuda/square_tiles.cu
    csrc/core/cuda/square_tiles_large.cu
    csrc/core/cuda/square_tiles_medium.cu
    csrc/core/cuda/square_tiles_small.cu
    csrc/core/cuda/tile_kernels.cu
    csrc/core/cuda/transform.cu)

# Compiled without contraction to fused multiply-adds (csrc/core/boxes_math.inl).
set(RSVHEAT_CUDA_EXACT_SOURCES csrc/core/cuda/boxes_iou.cu csrc/core/cuda/boxes_nms.cu)
