# One target per folder of src/, one test program per folder of tests/.

add_library(zoe_options INTERFACE)
target_include_directories(zoe_options INTERFACE
  $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src> $<INSTALL_INTERFACE:include/zoetrope>)
# No contraction: a product and a sum are two roundings everywhere, so a fused kernel can repeat an unfused run bit for bit.
# No trapping maths, no errno: lets the compiler vectorise written-out polynomials.
target_compile_options(zoe_options INTERFACE
  $<BUILD_INTERFACE:-ffp-contract=off -fno-trapping-math -fno-math-errno -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  $<$<BOOL:${ZOE_WERROR}>:-Werror>>)
if(ZOE_SANITIZE)
  target_compile_options(zoe_options INTERFACE $<BUILD_INTERFACE:-fsanitize=${ZOE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(zoe_options INTERFACE $<BUILD_INTERFACE:-fsanitize=${ZOE_SANITIZE}>)
endif()
if(ZOE_PORTABLE)
  # The libraries of libraries are looked for in an RPATH, too; in a RUNPATH, the new tag, they are not.
  target_link_options(zoe_options INTERFACE -static-libstdc++ -static-libgcc -Wl,--disable-new-dtags)
  set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)  # else the linker pads the path, with names of the current folder
  set(CMAKE_INSTALL_RPATH "$ORIGIN/lib")
endif()

# zoe_library(<folder> SOURCES a.cpp ... [PUBLIC targets...] [PRIVATE targets...])
function(zoe_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(zoe_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(zoe_${name} PUBLIC zoe_options ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
  set_property(GLOBAL APPEND PROPERTY ZOE_LIBRARIES zoe_${name})
endfunction()

# zoe_tests(<folder> SOURCES a.cpp ... LINK targets...): one GoogleTest program; every case is a CTest test labelled with the folder.
# (ZOE_COMMAND, the path of the command; ZOE_BINARY is a macro of ir/opcodes.def.)
function(zoe_tests name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(test_${name} ${ARG_SOURCES})
  target_link_libraries(test_${name} PRIVATE ${ARG_LINK} zoe_testing GTest::gtest_main)
  target_compile_definitions(test_${name} PRIVATE
    ZOE_FIXTURES="${CMAKE_SOURCE_DIR}/tests/fixtures" ZOE_MODELS="${CMAKE_SOURCE_DIR}/models" ZOE_COMMAND="$<TARGET_FILE:zoe>")
  # Compiled in two thirds of the time that -O3 takes; what the tests call is optimised in full.
  target_compile_options(test_${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  add_dependencies(test_${name} zoe)
  gtest_discover_tests(test_${name} TEST_PREFIX ${name}. NO_PRETTY_VALUES PROPERTIES LABELS ${name} TIMEOUT 300 DISCOVERY_TIMEOUT 60)
  # What needs a GPU says so in its name, and can be chosen or left out by a second label. CTest reads this file behind the tests.
  set(labels ${CMAKE_CURRENT_BINARY_DIR}/test_${name}_labels.cmake)
  file(WRITE ${labels} "foreach(test IN LISTS test_${name}_TESTS)
  if(test MATCHES OnCuda)
    set_tests_properties(\${test} PROPERTIES LABELS \"${name};gpu\")
  endif()
endforeach()
")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${labels})
endfunction()
include(GoogleTest OPTIONAL)
