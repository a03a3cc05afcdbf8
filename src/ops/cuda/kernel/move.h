/* move.h - kernels of move.cu: conversion, rows, block tables. Parameters are the op's. */
#ifndef RP_OPS_CUDA_KERNEL_MOVE_H
#define RP_OPS_CUDA_KERNEL_MOVE_H

#include "ops/ops.h"

enum { RP_MOVE_THREADS = 256 };

/* Each in a grid of any length; cast's elements are handed out in turns. take: a row a block of
 * x, its columns over y. */
#define RP_CUDA_MOVE_KERNELS(X) X(cast) X(take) X(table)

#endif
