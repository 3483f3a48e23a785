# How every C target of km is compiled, and clear messages for missing system libraries.

set(KM_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
    -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wdouble-promotion)

# km_require(PREFIX module debian-package): an imported target PkgConfig::PREFIX, or an error that
# says what to install.
function(km_require prefix module package)
  pkg_check_modules(${prefix} QUIET IMPORTED_TARGET GLOBAL ${module})
  if(NOT ${prefix}_FOUND)
    message(FATAL_ERROR "km needs the ${module} library and its headers; "
                        "on Debian: apt-get install ${package}")
  endif()
endfunction()

# Graphviz is optional for a C-only build (no pictures) and required for the Python package and, but
# for a cross build, the tests.
function(km_find_graphviz)
  pkg_check_modules(GRAPHVIZ QUIET IMPORTED_TARGET GLOBAL libcgraph libgvc)
  if(GRAPHVIZ_FOUND)
    set(KM_HAVE_GRAPHVIZ ON PARENT_SCOPE)
  elseif(KM_BUILD_PYTHON OR (KM_BUILD_TESTS AND NOT CMAKE_CROSSCOMPILING))
    message(FATAL_ERROR "km needs Graphviz (libcgraph, libgvc) and its headers; "
                        "on Debian: apt-get install libgraphviz-dev")
  else()
    message(STATUS "Graphviz not found: building without km_viz (pictures)")
    set(KM_HAVE_GRAPHVIZ OFF PARENT_SCOPE)
  endif()
endfunction()

# km_compile(target): warnings, sanitizers and floating-point rules of the project.
function(km_compile target)
  target_compile_options(${target} PRIVATE ${KM_WARNINGS} -fno-math-errno -fno-trapping-math
                                           -ffp-contract=off)
  target_compile_definitions(${target} PRIVATE _GNU_SOURCE)
  if(KM_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(KM_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=address,undefined
                                             -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=address,undefined)
  endif()
  if(KM_SANITIZE_THREAD)
    target_compile_options(${target} PRIVATE -fsanitize=thread -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=thread)
  endif()
  if(KM_BUILD_FUZZERS)
    # The parsers themselves guide the fuzzer, not only its entry point.
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(KM_COVERAGE)
    target_compile_options(${target} PRIVATE --coverage)
    target_link_options(${target} PRIVATE --coverage)
  endif()
endfunction()

# km_add_part(name SOURCES files... LIBS libs... EXPORTS patterns...): a part over libkm's base (kb,
# viz) as the static library km_<name> for our own modules and tests, and as the installed shared
# library km_<name> for C users. Sources are compiled once.
function(km_add_part name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS;EXPORTS" ${ARGN})
  add_library(km_${name}_objects OBJECT ${ARG_SOURCES})
  target_include_directories(km_${name}_objects
    PRIVATE include ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/libkm
            ${PROJECT_SOURCE_DIR}/libkm/include)
  target_link_libraries(km_${name}_objects PRIVATE ${ARG_LIBS} Threads::Threads)
  km_compile(km_${name}_objects)

  add_library(km_${name} STATIC $<TARGET_OBJECTS:km_${name}_objects>)
  target_link_libraries(km_${name} PUBLIC km_static PRIVATE ${ARG_LIBS})
  add_library(km_${name}_shared SHARED $<TARGET_OBJECTS:km_${name}_objects>
                                       $<TARGET_OBJECTS:km_base>)
  target_link_libraries(km_${name}_shared PUBLIC km PRIVATE ${ARG_LIBS} PkgConfig::OPENBLAS
                                                 PkgConfig::JANSSON Threads::Threads m)
  set_target_properties(km_${name}_shared PROPERTIES OUTPUT_NAME km_${name}
                        VERSION ${PROJECT_VERSION} SOVERSION 0)
  list(JOIN ARG_EXPORTS "; " exports)
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/${name}.map
       "KM_0 {\n    global: ${exports};\n    local: *;\n};\n")
  target_link_options(km_${name}_shared PRIVATE
                      -Wl,--version-script=${CMAKE_CURRENT_BINARY_DIR}/${name}.map)
  foreach(target km_${name} km_${name}_shared)
    target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
                                                $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    set_target_properties(${target} PROPERTIES LINKER_LANGUAGE C)
    km_compile(${target})
  endforeach()
  install(TARGETS km_${name}_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY include/km DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endfunction()

# km_install_pc(name description requires): a pkg-config file for the shared library <name>.
function(km_install_pc KM_PC_NAME KM_PC_DESCRIPTION KM_PC_REQUIRES)
  string(REPLACE "-" "_" KM_PC_LIB ${KM_PC_NAME})
  configure_file(${PROJECT_SOURCE_DIR}/cmake/km.pc.in ${CMAKE_CURRENT_BINARY_DIR}/${KM_PC_NAME}.pc
                 @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${KM_PC_NAME}.pc
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()
