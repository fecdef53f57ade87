# SPDX-License-Identifier: Apache-2.0
# The libraries of the Python package: torch ops, their CUDA kernels, the pybind11 module.

find_package(Python 3.10 COMPONENTS Interpreter Development.Module)
if(NOT Python_FOUND)
  message(FATAL_ERROR "Python 3.10 or newer and its header Python.h are needed. "
                      "Debian, Ubuntu: apt install python3-dev")
endif()
find_package(pybind11 3.0 CONFIG REQUIRED)

# ---- torch --------------------------------------------------------------------------------------
# find_package(Torch) would look for the CUDA toolkit that torch was built with and link everything;
# the stable ABI needs torch's headers and libtorch_cpu only. torch is not imported: that would take
# seconds, and would ask for a driver. Its version for any Python serves; `make wheels` takes one.

if(NOT RSVHEAT_TORCH_PYTHON)
  set(RSVHEAT_TORCH_PYTHON ${Python_EXECUTABLE})
endif()
execute_process(
  COMMAND
    ${RSVHEAT_TORCH_PYTHON} -c
    "import importlib.metadata as m, importlib.util as u; print(m.version('torch'), u.find_spec('torch').submodule_search_locations[0], sep='|', end='')"
  OUTPUT_VARIABLE RSVHEAT_TORCH
  RESULT_VARIABLE RSVHEAT_TORCH_RESULT
  ERROR_QUIET)
if(NOT RSVHEAT_TORCH_RESULT EQUAL 0)
  message(FATAL_ERROR "torch is not installed for ${RSVHEAT_TORCH_PYTHON}; its headers are needed. "
                      "RSVHEAT_NATIVE=OFF builds the package without compiled kernels.")
endif()
string(REGEX REPLACE "\\|.*" "" RSVHEAT_TORCH_VERSION "${RSVHEAT_TORCH}")
string(REGEX REPLACE "^[^|]*\\|" "" RSVHEAT_TORCH_DIR "${RSVHEAT_TORCH}")

add_library(rsvheat_torch INTERFACE)
target_include_directories(rsvheat_torch SYSTEM INTERFACE ${RSVHEAT_TORCH_DIR}/include)
# The oldest stable ABI with all that is used: what is built here runs on this torch and later ones.
target_compile_definitions(rsvheat_torch INTERFACE TORCH_TARGET_VERSION=0x020a000000000000)
target_compile_options(rsvheat_torch
                       INTERFACE -ffile-prefix-map=${RSVHEAT_TORCH_DIR}/include/=)
target_link_libraries(rsvheat_torch INTERFACE ${RSVHEAT_TORCH_DIR}/lib/libtorch_cpu.so)

# ---- The ops on the CPU -------------------------------------------------------------------------

add_library(
  rsvheat_ops MODULE
  csrc/ops/schema.cpp csrc/ops/boxes.cpp csrc/ops/dct.cpp csrc/ops/fingerprint.cpp
  csrc/ops/frequency_split.cpp csrc/ops/heat_conduction.cpp csrc/ops/layer_norm.cpp
  csrc/ops/linear.cpp csrc/ops/spatial_correction.cpp csrc/ops/spectral_l1.cpp)
target_link_libraries(rsvheat_ops PRIVATE rsvheat_flags rsvheat_core rsvheat_torch)
set(RSVHEAT_LIBRARIES rsvheat_core rsvheat_ops)

# ---- The ops on CUDA: a library of its own, loaded only where torch has CUDA ---------------------

include(csrc/core/cuda/sources.cmake)
include(csrc/ops/cuda/sources.cmake)
set(RSVHEAT_CUDA_SOURCES ${RSVHEAT_CUDA_CORE_SOURCES} ${RSVHEAT_CUDA_OPS_SOURCES})

if("$ENV{CUDACXX}" STREQUAL "")
  find_program(RSVHEAT_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
               NO_CMAKE_SYSTEM_PATH)
else()
  set(RSVHEAT_NVCC $ENV{CUDACXX})
endif()

set(RSVHEAT_NO_CUDA "")
if(RSVHEAT_CUDA STREQUAL "OFF")
  set(RSVHEAT_NO_CUDA "RSVHEAT_CUDA=OFF")
elseif(NOT RSVHEAT_CUDA_SOURCES)
  set(RSVHEAT_NO_CUDA "no CUDA sources")
elseif(NOT RSVHEAT_NVCC)
  set(RSVHEAT_NO_CUDA "no nvcc on PATH, in CUDA_HOME, CUDA_PATH or CUDACXX")
elseif(NOT EXISTS ${RSVHEAT_TORCH_DIR}/lib/libtorch_cuda.so)
  set(RSVHEAT_NO_CUDA "torch ${RSVHEAT_TORCH_VERSION} is built without CUDA")
endif()

if(RSVHEAT_NO_CUDA)
  if(RSVHEAT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "RSVHEAT_CUDA=ON, but: ${RSVHEAT_NO_CUDA}. "
                        "RSVHEAT_CUDA=OFF builds for the CPU only.")
  endif()
  message(STATUS "rsvheat: building for the CPU only (${RSVHEAT_NO_CUDA})")
  set(RSVHEAT_CUDA_ARCHS "")
else()
  # Machine code for A100-class and Hopper GPUs. PTX runs on its own compute capability and above,
  # so sm_90's reaches every later GPU; newer PTX would leave out those between it and sm_90. The
  # driver of such a GPU compiles at a kernel's first use, which takes seconds a file: releases have
  # machine code for Blackwell, too, at twice the time of a build.
  set(RSVHEAT_GPUS 80-real 90-real 90-virtual)
  if(RSVHEAT_ALL_GPUS)
    list(APPEND RSVHEAT_GPUS 100-real 120-real)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${RSVHEAT_GPUS} CACHE STRING "GPUs to compile for")
  # enable_language would stop at a page of compiler output.
  execute_process(COMMAND ${RSVHEAT_NVCC} --version OUTPUT_VARIABLE RSVHEAT_NVCC_SAYS
                  ERROR_VARIABLE RSVHEAT_NVCC_SAYS RESULT_VARIABLE RSVHEAT_NVCC_RESULT)
  if(NOT RSVHEAT_NVCC_RESULT EQUAL 0)
    message(FATAL_ERROR "${RSVHEAT_NVCC} does not run (${RSVHEAT_NVCC_RESULT}): "
                        "${RSVHEAT_NVCC_SAYS} Mend it or choose another by CUDACXX; "
                        "RSVHEAT_CUDA=OFF builds for the CPU only.")
  elseif(RSVHEAT_NVCC_SAYS MATCHES "release ([0-9]+)\\.([0-9]+)" AND CMAKE_MATCH_1 LESS 12)
    message(FATAL_ERROR "${RSVHEAT_NVCC} is of CUDA ${CMAKE_MATCH_1}.${CMAKE_MATCH_2}; the kernels "
                        "are C++20, which CUDA 12 and newer know. Choose another by CUDACXX; "
                        "RSVHEAT_CUDA=OFF builds for the CPU only.")
  endif()
  set(CMAKE_CUDA_COMPILER ${RSVHEAT_NVCC})
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  message(STATUS "rsvheat: building for CUDA ${CUDAToolkit_VERSION} (${CMAKE_CUDA_ARCHITECTURES})")
  add_library(rsvheat_cuda MODULE ${RSVHEAT_CUDA_SOURCES})
  set_source_files_properties(${RSVHEAT_CUDA_EXACT_SOURCES} PROPERTIES COMPILE_OPTIONS -fmad=false)
  target_compile_features(rsvheat_cuda PRIVATE cuda_std_20)
  target_compile_definitions(rsvheat_cuda PRIVATE USE_CUDA)  # opens torch's CUDA shims
  target_link_libraries(
    rsvheat_cuda PRIVATE rsvheat_flags rsvheat_core rsvheat_torch
                         ${RSVHEAT_TORCH_DIR}/lib/libtorch_cuda.so CUDA::cudart
                         CUDA::cufft)
  # At run time cuFFT and the CUDA runtime are those that torch has loaded already, which are found by
  # their sonames; the run path is for tools that load the library by itself.
  set_target_properties(
    rsvheat_cuda
    PROPERTIES CUDA_RUNTIME_LIBRARY Shared
               INSTALL_RPATH
               "$ORIGIN;$ORIGIN/../nvidia/cu13/lib;$ORIGIN/../nvidia/cufft/lib;$ORIGIN/../torch/lib")
  list(APPEND RSVHEAT_LIBRARIES rsvheat_cuda)
  list(JOIN CMAKE_CUDA_ARCHITECTURES " " RSVHEAT_CUDA_ARCHS)
endif()

# ---- rsvheat._native ----------------------------------------------------------------------------

set(RSVHEAT_VERSION "${SKBUILD_PROJECT_VERSION_FULL}")
set(RSVHEAT_COMPILER "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
string(TOUPPER "${CMAKE_BUILD_TYPE}" RSVHEAT_CONFIG)
string(STRIP "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${RSVHEAT_CONFIG}}" RSVHEAT_COMPILER_FLAGS)
configure_file(csrc/bindings/build_config.h.in build_config.h @ONLY)

pybind11_add_module(rsvheat_native MODULE NO_EXTRAS csrc/bindings/native.cpp)
set_target_properties(rsvheat_native PROPERTIES OUTPUT_NAME _native)
target_include_directories(rsvheat_native PRIVATE ${CMAKE_CURRENT_BINARY_DIR})
target_link_libraries(rsvheat_native PRIVATE rsvheat_flags rsvheat_core)

# All symbols of these are known now; those of the module come from the interpreter that imports it.
foreach(library IN LISTS RSVHEAT_LIBRARIES)
  target_link_options(${library} PRIVATE LINKER:-z,defs)
endforeach()

install(TARGETS ${RSVHEAT_LIBRARIES} rsvheat_native LIBRARY DESTINATION rsvheat)
