# SPDX-License-Identifier: Apache-2.0
# An object compiled for AVX must share no inline function with others: the linker could keep its copy
# for all, and CPUs without AVX would crash. So it may define no weak symbol.
string(REPLACE "," ";" OBJECTS "${OBJECTS}")
list(FILTER OBJECTS INCLUDE REGEX "kernels_avx")
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} -C --defined-only ${object} OUTPUT_VARIABLE symbols
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
  list(FILTER weak EXCLUDE REGEX "DW\\.ref\\.")  # a pointer for unwinding, no code
  if(weak)
    message(FATAL_ERROR "${object} defines weak symbols: ${weak}")
  endif()
endforeach()
