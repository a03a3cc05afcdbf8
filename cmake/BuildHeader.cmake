# Writes OUT (ratplus_build.h) when its text changed. The commit is "unknown" outside of git.
set(commit "unknown")
if(EXISTS "${SOURCE}/.git")
  find_program(GIT git)
  if(GIT)
    execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --dirty --abbrev=12
                            --exclude=*
                    OUTPUT_VARIABLE found ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(found)
      set(commit "${found}")
    endif()
  endif()
endif()
set(libraries "")
if(BUILT_IN)
  set(libraries ", ${BUILT_IN}")
endif()
if(NOT LEFT_OUT)
  set(LEFT_OUT "nothing")
endif()
file(CONFIGURE OUTPUT ${OUT} @ONLY CONTENT [[/* Made by the build. */
#define RATPLUS_COMMIT "@commit@"
#define RATPLUS_LIBRARIES "@libraries@"
#define RATPLUS_LEFT_OUT "@LEFT_OUT@"
]])
