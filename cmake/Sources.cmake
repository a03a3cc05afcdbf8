# The library's sources and the program's. src/ops/cpu/kern is built once per kernel level.
file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*.c)
file(GLOB_RECURSE kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/cpu/kern/*.c)
list(FILTER sources EXCLUDE REGEX "/src/ops/cpu/kern/")
if(RATPLUS_HAVE_SENTENCEPIECE)
  file(GLOB cxx_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/text/*.cc)
  list(APPEND sources ${cxx_sources})
endif()

set(RATPLUS_LINKER_LANGUAGE C)
if(RATPLUS_HAVE_SENTENCEPIECE)
  set(RATPLUS_LINKER_LANGUAGE CXX)
endif()

# The commit is looked up at each build, the header only touched when it changed.
list(JOIN RATPLUS_BUILT_IN ", " built_in)
list(JOIN RATPLUS_LEFT_OUT ", " left_out)
add_custom_target(ratplus_build_header
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR}
          -DOUT=${PROJECT_BINARY_DIR}/generated/ratplus_build.h
          "-DBUILT_IN=${built_in}" "-DLEFT_OUT=${left_out}"
          -P ${PROJECT_SOURCE_DIR}/cmake/BuildHeader.cmake
  BYPRODUCTS ${PROJECT_BINARY_DIR}/generated/ratplus_build.h
  VERBATIM)

set_source_files_properties(${PROJECT_SOURCE_DIR}/src/ops/cuda/cuda_kernels.c PROPERTIES
  COMPILE_DEFINITIONS RATPLUS_CUDA_IMAGES="${RATPLUS_CUDA_IMAGES}"
  OBJECT_DEPENDS "${RATPLUS_CUDA_IMAGE_FILES}")
add_library(ratplus_objects OBJECT ${sources})
add_dependencies(ratplus_objects ratplus_build_header)
target_link_libraries(ratplus_objects PRIVATE ratplus_flags ${RATPLUS_LINK_LIBRARIES})
set_target_properties(ratplus_objects PROPERTIES POSITION_INDEPENDENT_CODE ON)
set(objects $<TARGET_OBJECTS:ratplus_objects>)

# One object library per level, of the sources in `kernels`. No -ffast-math: NaN, signed zeros and the
# order of sums stay.
function(ratplus_kernels level)
  add_library(ratplus_kern_${level} OBJECT ${kernels})
  target_link_libraries(ratplus_kern_${level} PRIVATE ratplus_flags)
  target_compile_options(ratplus_kern_${level} PRIVATE
    $<$<NOT:$<CONFIG:Debug>>:-O3> -fno-math-errno -fno-trapping-math ${ARGN})
  set_target_properties(ratplus_kern_${level} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  set(objects ${objects} $<TARGET_OBJECTS:ratplus_kern_${level}> PARENT_SCOPE)
endfunction()

# few.c's loop over bfloat16 holds as many values as there are registers; gcc's allocator by regions
# of the code keeps two of its sums in memory, the one over the whole function none.
set_source_files_properties(${PROJECT_SOURCE_DIR}/src/ops/cpu/kern/few.c PROPERTIES
  COMPILE_OPTIONS $<$<C_COMPILER_ID:GNU>:-fira-region=one>)

if(kernels)
  ratplus_kernels(ref -DRP_LEVEL=ref)
  # The oracle need not be fast, but the program small.
  ratplus_kernels(ref64 -DRP_LEVEL=ref64 -DRP_REAL_DOUBLE=1 $<$<NOT:$<CONFIG:Debug>>:-Os>)
  if(RATPLUS_X86)
    ratplus_kernels(avx2 -DRP_LEVEL=avx2 -mavx2 -mfma -mf16c -ffp-contract=fast)
    set(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c
        -mprefer-vector-width=512 -ffp-contract=fast)
    ratplus_kernels(avx512 -DRP_LEVEL=avx512 ${avx512})
    # What multiplies bfloat16 itself; table.c takes the rest from avx512.
    list(FILTER kernels INCLUDE REGEX "/(few|attend|attend_bwd|table)\\.c$")
    ratplus_kernels(avx512_bf16 -DRP_LEVEL=avx512_bf16 ${avx512} -mavx512bf16)
  endif()
endif()

add_library(ratplus_static STATIC ${objects})
add_library(ratplus_shared SHARED ${objects})
foreach(target ratplus_static ratplus_shared)
  target_link_libraries(${target} PRIVATE OpenMP::OpenMP_C Threads::Threads m
                        ${RATPLUS_LINK_LIBRARIES})
  target_link_options(${target} PRIVATE ${RATPLUS_SANITIZE_FLAGS})
  target_include_directories(${target} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ratplus
    LINKER_LANGUAGE ${RATPLUS_LINKER_LANGUAGE})
endforeach()
set_target_properties(ratplus_static PROPERTIES EXPORT_NAME static)
set_target_properties(ratplus_shared PROPERTIES EXPORT_NAME shared
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})

add_library(ratplus_program_flags INTERFACE)
target_include_directories(ratplus_program_flags INTERFACE
  ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/cli)
target_compile_definitions(ratplus_program_flags INTERFACE _GNU_SOURCE)
target_compile_options(ratplus_program_flags INTERFACE
  $<TARGET_PROPERTY:ratplus_flags,INTERFACE_COMPILE_OPTIONS>)
target_link_options(ratplus_program_flags INTERFACE ${RATPLUS_SANITIZE_FLAGS})

file(GLOB cli_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cli/*.c)
if(EXISTS ${PROJECT_SOURCE_DIR}/cli/main.c)
  # The static library, so that the program runs from where it was built and can be copied; it
  # still sees public headers only, because src/ is not on its include path.
  add_executable(ratplus ${cli_sources})
  target_link_libraries(ratplus PRIVATE ratplus_program_flags ratplus_static)
  set_target_properties(ratplus PROPERTIES LINKER_LANGUAGE ${RATPLUS_LINKER_LANGUAGE})
endif()

# The man page and the completions come out of the program's own table of verbs.
if(TARGET ratplus AND (NOT CMAKE_CROSSCOMPILING OR CMAKE_CROSSCOMPILING_EMULATOR))
  set(pages ${PROJECT_BINARY_DIR}/pages)
  add_custom_command(OUTPUT ${pages}/ratplus.1 ${pages}/ratplus.bash ${pages}/ratplus.zsh
                            ${pages}/ratplus.fish
    COMMAND ${CMAKE_COMMAND} -E make_directory ${pages}
    COMMAND ratplus man > ${pages}/ratplus.1
    COMMAND ratplus completion bash > ${pages}/ratplus.bash
    COMMAND ratplus completion zsh > ${pages}/ratplus.zsh
    COMMAND ratplus completion fish > ${pages}/ratplus.fish
    DEPENDS ratplus VERBATIM)
  add_custom_target(ratplus_pages ALL DEPENDS ${pages}/ratplus.1)
endif()
