install(TARGETS ratplus_static ratplus_shared)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/ratplus DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
