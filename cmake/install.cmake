# cmake --install: the command, the embedded model, the headers, and a package for find_package(zoetrope).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(ZOE_LIBRARY_TARGETS GLOBAL PROPERTY ZOE_LIBRARIES)
install(TARGETS zoe RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS zoe_options ${ZOE_LIBRARY_TARGETS} EXPORT zoetrope ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/zoetrope)
# The public face: zoetrope.h and what it includes.
foreach(header zoetrope.h base/dtype.h base/error.h base/log.h compiler/options.h pipeline/callbacks.h pipeline/request.h
    pipeline/session.h pipeline/statement.h platform/override_rules.h schedulers/scheduler_kind.h)
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES src/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/zoetrope/${folder})
endforeach()
install(DIRECTORY models/toy-wan models/toy-wan-i2v models/toy-wan-i2v-experts DESTINATION ${CMAKE_INSTALL_DATADIR}/zoetrope/models
  PATTERN "training" EXCLUDE)
install(FILES ${CMAKE_BINARY_DIR}/pages/zoe.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME zoe)
install(FILES ${CMAKE_BINARY_DIR}/pages/_zoe DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES ${CMAKE_BINARY_DIR}/pages/zoe.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
install(FILES ${CMAKE_BINARY_DIR}/pages/zoe.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(TARGETS zoetrope_c LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES apps/capi/zoetrope_c.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/zoetrope)
# What Python's package has beside its own files (pyproject.toml): the library, once and by one name, and the embedded models.
install(FILES $<TARGET_FILE:zoetrope_c> DESTINATION zoetrope RENAME libzoetrope.so COMPONENT python EXCLUDE_FROM_ALL)
install(DIRECTORY models/toy-wan models/toy-wan-i2v DESTINATION zoetrope/models COMPONENT python EXCLUDE_FROM_ALL PATTERN "training" EXCLUDE)
foreach(package libdnnl-dev libgomp1 libfmt-dev libssl-dev libpng-dev libjpeg62-turbo-dev libwebp-dev libutf8proc-dev libhwy-dev)
  if(EXISTS /usr/share/doc/${package}/copyright)  # of what a wheel carries beside them
    install(FILES /usr/share/doc/${package}/copyright DESTINATION zoetrope/licences RENAME ${package} COMPONENT python EXCLUDE_FROM_ALL)
  endif()
endforeach()

set(config_folder ${CMAKE_INSTALL_LIBDIR}/cmake/zoetrope)
install(EXPORT zoetrope NAMESPACE zoetrope:: DESTINATION ${config_folder})
file(WRITE ${CMAKE_BINARY_DIR}/zoetropeConfig.cmake [[
include(CMakeFindDependencyMacro)
set(ZOE_TESTS OFF)
set(ZOE_LIBRARY_ONLY ON)
include("${CMAKE_CURRENT_LIST_DIR}/dependencies.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/zoetrope.cmake")
add_library(zoetrope::zoetrope INTERFACE IMPORTED)
set_target_properties(zoetrope::zoetrope PROPERTIES INTERFACE_LINK_LIBRARIES "zoetrope::zoe_pipeline;zoetrope::zoe_media")
]])
write_basic_package_version_file(${CMAKE_BINARY_DIR}/zoetropeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/zoetropeConfig.cmake ${CMAKE_BINARY_DIR}/zoetropeConfigVersion.cmake cmake/dependencies.cmake
  DESTINATION ${config_folder})
