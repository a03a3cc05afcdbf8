# The device cuda needs CUDA's headers and nvcc to be built and nothing of it to be linked: the program opens
# the driver and cuBLASLt when it is asked for a GPU. So RATPLUS_CORE does not leave it out.
set(RATPLUS_CUDA_ARCHITECTURES "80;90a" CACHE STRING
    "GPUs that kernels are compiled for; the first also as PTX, which newer ones compile themselves")
set(RATPLUS_HAVE_CUDA 0)
if(NOT RATPLUS_WITH_CUDA STREQUAL "AUTO" AND NOT RATPLUS_WITH_CUDA)
  list(APPEND RATPLUS_ABSENT_LINES "cuda: left out as asked")
else()
  find_path(RATPLUS_CUDA_INCLUDE cublasLt.h
    HINTS ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES include)
  find_program(RATPLUS_NVCC nvcc
    HINTS ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
  mark_as_advanced(RATPLUS_CUDA_INCLUDE RATPLUS_NVCC)
  set(version 0)
  if(EXISTS "${RATPLUS_CUDA_INCLUDE}/cuda.h")
    file(STRINGS "${RATPLUS_CUDA_INCLUDE}/cuda.h" lines REGEX "^#define CUDA_VERSION ")
    string(REGEX MATCH "[0-9]+" version "${lines}")
  endif()
  if(version GREATER_EQUAL 12000 AND RATPLUS_NVCC)
    set(RATPLUS_HAVE_CUDA 1)
    add_library(ratplus_cuda INTERFACE)
    target_include_directories(ratplus_cuda SYSTEM INTERFACE ${RATPLUS_CUDA_INCLUDE})
    target_link_libraries(ratplus_cuda INTERFACE ${CMAKE_DL_LIBS})
    list(APPEND RATPLUS_LINK_LIBRARIES ratplus_cuda)
    file(STRINGS "${RATPLUS_CUDA_INCLUDE}/cublas_api.h" lines REGEX "^#define CUBLAS_VER_MAJOR ")
    string(REGEX MATCH "[0-9]+" RATPLUS_CUBLAS_MAJOR "${lines}")
    math(EXPR major "${version} / 1000")
    math(EXPR minor "${version} % 1000 / 10")
    list(APPEND RATPLUS_BUILT_IN "cuda ${major}.${minor}")
  elseif(RATPLUS_WITH_CUDA STREQUAL "AUTO")
    list(APPEND RATPLUS_ABSENT_LINES "cuda: no headers and nvcc of CUDA 12 or later, built without it")
  else()
    message(FATAL_ERROR "RATPLUS_WITH_CUDA=ON, but cuda.h, cublasLt.h and nvcc of CUDA 12 or later "
                        "were not found. Set CUDA_PATH to the folder of CUDA, or set AUTO.")
  endif()
endif()

# src/ops/cuda/kernel/NAME.cu becomes cuda/NAME.fatbin, which cuda_kernels.c takes into the library.
set(RATPLUS_CUDA_IMAGES ${PROJECT_BINARY_DIR}/cuda)
set(RATPLUS_CUDA_IMAGE_FILES "")
if(RATPLUS_HAVE_CUDA)
  list(GET RATPLUS_CUDA_ARCHITECTURES 0 oldest)
  set(targets -gencode=arch=compute_${oldest},code=compute_${oldest})
  foreach(arch IN LISTS RATPLUS_CUDA_ARCHITECTURES)
    list(APPEND targets -gencode=arch=compute_${arch},code=sm_${arch})
  endforeach()
  set(flags -std=c++17 -O3 -Xcompiler=-Wall -I${PROJECT_SOURCE_DIR}/src -I${PROJECT_SOURCE_DIR}/include)
  if(RATPLUS_WERROR)
    list(APPEND flags -Werror=all-warnings)
  endif()
  file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/cuda/kernel/*.cu)
  foreach(source IN LISTS kernels)
    get_filename_component(name ${source} NAME_WE)
    set(image ${RATPLUS_CUDA_IMAGES}/${name}.fatbin)
    add_custom_command(OUTPUT ${image}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${RATPLUS_CUDA_IMAGES}
      COMMAND ${RATPLUS_CCACHE} ${RATPLUS_NVCC} ${flags} ${targets} -MMD -MF ${image}.d -MT ${image}
              -fatbin -o ${image} ${source}
      DEPENDS ${source} DEPFILE ${image}.d
      COMMENT "Compiling ${name}.cu for GPUs" VERBATIM)
    list(APPEND RATPLUS_CUDA_IMAGE_FILES ${image})
  endforeach()
endif()
if(NOT RATPLUS_HAVE_CUDA)
  list(APPEND RATPLUS_LEFT_OUT cuda)
endif()
list(APPEND RATPLUS_WITH_DEFINITIONS RATPLUS_WITH_CUDA=${RATPLUS_HAVE_CUDA})
