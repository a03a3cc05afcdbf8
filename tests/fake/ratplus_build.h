/* ratplus_build.h - of the second program: another build, as far as ranks can tell. */
#define RATPLUS_COMMIT "another"
#define RATPLUS_LIBRARIES ", nccl of the tests"
#define RATPLUS_LEFT_OUT "everything else"
