/* hd.h - RP_HD marks inline functions that are compiled for the processor and for GPUs. */
#ifndef RP_BASE_HD_H
#define RP_BASE_HD_H

#ifdef __CUDACC__
#define RP_HD __host__ __device__
#else
#define RP_HD
#endif

#endif
