/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_CUDA_H
#define KVFS_TESTS_CUDA_H

/* The stand-in for CUDA (cuda.c), for its part that is cuFile (cufile.c). */

#include <stddef.h>
#include <stdint.h>

/** cuda_fails - shall this call fail? */
int cuda_fails(const char *name);
/** cuda_broken - the caller did what is an error of his: the end. */
void cuda_broken(const char *what);
/** cuda_bytes - where so many bytes of a GPU's memory really are. */
char *cuda_bytes(uint64_t pointer, size_t n);
/** cuda_has_context - does the calling thread have one? */
int cuda_has_context(void);

#endif
