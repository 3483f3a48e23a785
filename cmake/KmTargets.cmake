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

# Graphviz is optional for a C-only build (no pictures) and required for the Python package.
function(km_find_graphviz)
  pkg_check_modules(GRAPHVIZ QUIET IMPORTED_TARGET GLOBAL libcgraph libgvc)
  if(GRAPHVIZ_FOUND)
    set(KM_HAVE_GRAPHVIZ ON PARENT_SCOPE)
  elseif(KM_BUILD_PYTHON OR KM_BUILD_TESTS)
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
  if(KM_COVERAGE)
    target_compile_options(${target} PRIVATE --coverage)
    target_link_options(${target} PRIVATE --coverage)
  endif()
endfunction()
