# What is installed: libraries, headers, the program, pkg-config and CMake packages, the tree of
# configurations, man pages. Nothing installed holds the path of the build.
include(CMakePackageConfigHelpers)

install(TARGETS ratplus_static ratplus_shared)
if(TARGET ratplus)
  install(TARGETS ratplus)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/ratplus DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h")
install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs DESTINATION ${CMAKE_INSTALL_DATADIR}/ratplus
  OPTIONAL)
if(TARGET ratplus_pages)
  set(pages ${PROJECT_BINARY_DIR}/pages)
  install(FILES ${pages}/ratplus.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  install(FILES ${pages}/ratplus.bash RENAME ratplus
    DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
  install(FILES ${pages}/ratplus.zsh RENAME _ratplus
    DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
  install(FILES ${pages}/ratplus.fish
    DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/NEWS
  DESTINATION ${CMAKE_INSTALL_DOCDIR})

# For static linking: the libraries by name, as the linker takes them.
set(private_libraries "")
foreach(name IN LISTS RATPLUS_LIBRARY_NAMES)
  if(RATPLUS_HAVE_${name})
    list(GET RATPLUS_${name}_SPEC 1 library)
    list(LENGTH RATPLUS_${name}_SPEC length)
    if(length GREATER 4)
      list(GET RATPLUS_${name}_SPEC 4 further)
      list(APPEND private_libraries ${further})
    endif()
    list(APPEND private_libraries ${library})
  endif()
endforeach()
if(RATPLUS_HAVE_SENTENCEPIECE)
  list(APPEND private_libraries stdc++)
endif()
if(RATPLUS_HAVE_CUDA)
  list(APPEND private_libraries ${CMAKE_DL_LIBS})
endif()
list(APPEND private_libraries ${OpenMP_C_LIB_NAMES} m)
list(REMOVE_ITEM private_libraries pthread)
list(APPEND private_libraries pthread)
list(TRANSFORM private_libraries PREPEND "-l" OUTPUT_VARIABLE flags)
list(JOIN flags " " RATPLUS_PC_LIBS_PRIVATE)

# Relative to the .pc file, so that a moved or staged tree works.
file(RELATIVE_PATH RATPLUS_PC_PREFIX
  /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/ratplus.pc.in generated/ratplus.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/generated/ratplus.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/ratplus)
configure_package_config_file(cmake/ratplusConfig.cmake.in generated/ratplusConfig.cmake
  INSTALL_DESTINATION ${package_dir}
  PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file(generated/ratplusConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/generated/ratplusConfig.cmake
  ${PROJECT_BINARY_DIR}/generated/ratplusConfigVersion.cmake DESTINATION ${package_dir})
