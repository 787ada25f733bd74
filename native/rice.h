/* What the levels share: bit writer, exact block encoder, and the table of their functions. */
#ifndef PLATEVAULT_RICE_H
#define PLATEVAULT_RICE_H

#include <string.h>

#include "kernel.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "The kernel is written for little-endian processors"
#endif

#define PV_BLOCK 32u        /* pixels of a RICE_1 block */
#define PV_LEVEL_BITS 5u    /* bits of its split level */
#define PV_RAW_LEVEL 25u    /* from here on a block is stored as it is */
#define PV_MERGED_BITS 56u  /* most bits of one put(); up to 7 more wait in the accumulator */

#define PV_INLINE static inline __attribute__((always_inline))
#define PV_LIKELY(x) __builtin_expect(!!(x), 1)
#define PV_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Sums over the pixels of a segment. */
typedef struct {
    uint64_t plane;
    uint32_t used;
} pv_stats;

typedef struct {
    /* Take one image row apart: channel c's pixels go to scratch + c * stride. */
    void (*gather)(const pv_job *job, uint64_t sample, int32_t *scratch, size_t stride);
    /* Encode a tile of n pixels; x[-1] may be written. Returns the end of the tile. */
    uint8_t *(*encode)(int32_t *x, size_t n, uint8_t *out, pv_stats *stats);
    /* Store n pixels big-endian. */
    void (*store)(const int32_t *x, size_t n, uint8_t *out, pv_stats *stats);
} pv_level_ops;

extern const pv_level_ops pv_portable_ops;
#if defined(__x86_64__)
extern const pv_level_ops pv_avx2_ops;
#endif

/* The portable gather of samples [from, to) of a row, for tails of other levels. */
void pv_gather_range(const pv_job *job, uint64_t sample, size_t from, size_t to, int32_t *scratch,
                     size_t stride);

/* Up to seven bits wait at the top of `held`; `at` is the byte they belong to. */
typedef struct {
    uint64_t held;
    unsigned bits;
    uint8_t *at;
} pv_writer;

PV_INLINE void pv_store_be64(uint8_t *at, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(at, &value, 8);
}

/* Append 1 to 56 bits; writes eight bytes at `at`. */
PV_INLINE void pv_put(pv_writer *w, uint64_t code, unsigned length)
{
    unsigned total = w->bits + length;
    uint64_t held = w->held | code << (64 - total);
    pv_store_be64(w->at, held);
    w->at += total >> 3;
    w->held = held << (total & 56);
    w->bits = total & 7;
}

/* Append zeros and a code of at most 25 bits. */
PV_INLINE void pv_put_long(pv_writer *w, uint32_t zeros, uint32_t code, unsigned length)
{
    while (zeros > PV_MERGED_BITS) {
        pv_put(w, 0, PV_MERGED_BITS);
        zeros -= PV_MERGED_BITS;
    }
    if (zeros + length <= PV_MERGED_BITS) {
        pv_put(w, code, zeros + length);
    } else {
        pv_put(w, 0, zeros);
        pv_put(w, code, length);
    }
}

/* Split level of a block whose mapped differences have this sum. */
PV_INLINE unsigned pv_split_level(uint64_t sum, unsigned n)
{
    uint64_t floor = n / 2 + 1;
    if (sum < floor)
        return 0;
    uint32_t half = (uint32_t)((sum - floor) / n) >> 1;
    return half ? 32u - (unsigned)__builtin_clz(half) : 0;
}

/* Encode a block of 1 to 32 mapped differences with a known sum. */
PV_INLINE void pv_put_block(pv_writer *w, const uint32_t *z, unsigned n, uint64_t sum)
{
    if (sum == 0) {
        pv_put(w, 0, PV_LEVEL_BITS);
        return;
    }
    unsigned level = pv_split_level(sum, n);
    if (level >= PV_RAW_LEVEL) {
        pv_put(w, PV_RAW_LEVEL + 1, PV_LEVEL_BITS);
        for (unsigned i = 0; i < n; i++)
            pv_put(w, z[i], 32);
        return;
    }
    pv_put(w, level + 1, PV_LEVEL_BITS);
    const uint32_t one = 1u << level, mask = one - 1;
    const uint32_t fixed = level + 1;
    unsigned i = 0;
    for (; i + 4 <= n; i += 4) {
        uint32_t l0 = (z[i] >> level) + fixed, l1 = (z[i + 1] >> level) + fixed;
        uint32_t l2 = (z[i + 2] >> level) + fixed, l3 = (z[i + 3] >> level) + fixed;
        uint64_t c0 = (z[i] & mask) | one, c1 = (z[i + 1] & mask) | one;
        uint64_t c2 = (z[i + 2] & mask) | one, c3 = (z[i + 3] & mask) | one;
        uint32_t front = l0 + l1, back = l2 + l3;
        if (PV_LIKELY(front + back <= PV_MERGED_BITS)) {
            uint64_t code = (c0 << l1 | c1) << back | (c2 << l3 | c3);
            pv_put(w, code, front + back);
        } else if (PV_LIKELY(front <= PV_MERGED_BITS && back <= PV_MERGED_BITS)) {
            pv_put(w, c0 << l1 | c1, front);
            pv_put(w, c2 << l3 | c3, back);
        } else {
            pv_put_long(w, l0 - fixed, (uint32_t)c0, fixed);
            pv_put_long(w, l1 - fixed, (uint32_t)c1, fixed);
            pv_put_long(w, l2 - fixed, (uint32_t)c2, fixed);
            pv_put_long(w, l3 - fixed, (uint32_t)c3, fixed);
        }
    }
    for (; i < n; i++)
        pv_put_long(w, z[i] >> level, (z[i] & mask) | one, fixed);
}

/* Map differences, sum them and the pixels, and encode; exact for every input. */
PV_INLINE void pv_encode_block(pv_writer *w, const int32_t *x, unsigned n, pv_stats *stats)
{
    uint32_t z[PV_BLOCK];
    uint64_t sum = 0, plane = 0;
    uint32_t used = 0;
    for (unsigned i = 0; i < n; i++) {
        uint32_t d = (uint32_t)x[i] - (uint32_t)x[(ptrdiff_t)i - 1];
        z[i] = d << 1 ^ (0u - (d >> 31));
        sum += z[i];
        plane += (uint32_t)x[i];
        used |= (uint32_t)x[i];
    }
    stats->plane += plane;
    stats->used |= used;
    pv_put_block(w, z, n, sum);
}

/* Begin a tile: its first pixel as it is. */
PV_INLINE pv_writer pv_begin_tile(int32_t *x, uint8_t *out)
{
    uint32_t first = __builtin_bswap32((uint32_t)x[0]);
    memcpy(out, &first, 4);
    x[-1] = x[0];
    pv_writer w = {0, 0, out + 4};
    return w;
}

#endif
