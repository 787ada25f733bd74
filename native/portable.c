/* The level that every processor has. Vector types of the compiler become SSE2 or NEON. */
#include "rice.h"

#define PACKED_MASK 0x3ffffu

typedef uint32_t v4u __attribute__((vector_size(16)));

PV_INLINE v4u load4(const uint8_t *at)
{
    v4u value;
    memcpy(&value, at, 16);
    return value;
}

/* Unpack four words that begin on a byte; reads exactly nine bytes. */
PV_INLINE v4u unpack4(const uint8_t *at)
{
    uint64_t low;
    memcpy(&low, at, 8);
    uint32_t high = (uint32_t)at[8] << 10;
    v4u value = {(uint32_t)low, (uint32_t)(low >> 18), (uint32_t)(low >> 36),
                 (uint32_t)(low >> 54) | high};
    return value & PACKED_MASK;
}

/* Unpack one word; 18-bit words begin on even bits, so three bytes hold each. */
PV_INLINE uint32_t unpack1(const uint8_t *stripe, uint32_t channel)
{
    uint32_t bit = channel * 18u;
    const uint8_t *at = stripe + (bit >> 3);
    uint32_t value = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16;
    return value >> (bit & 7) & PACKED_MASK;
}

PV_INLINE uint32_t load1(const uint8_t *stripe, uint32_t channel)
{
    uint32_t value;
    memcpy(&value, stripe + (size_t)channel * 4, 4);
    return value;
}

PV_INLINE void put4(int32_t *at, v4u value)
{
    memcpy(at, &value, 16);
}

PV_INLINE void gather(const pv_job *job, uint64_t sample, size_t from, size_t to, int32_t *scratch,
                      size_t stride, int packed)
{
    const uint32_t mask = job->xor_mask, first = job->first_channel, channels = job->channels;
    const size_t step = job->stripe_bytes;
    const uint8_t *source = job->source + job->offset_bytes + (sample + from) * step;
    /* Four packed words are nine bytes: a group must begin on such a boundary. */
    const uint32_t fours = packed && first % 4 ? 0 : channels / 4 * 4;
    size_t s = from;
    for (; s + 4 <= to; s += 4, source += 4 * step) {
        for (uint32_t c = 0; c < fours; c += 4) {
            const uint8_t *at = source + (packed ? (size_t)(first + c) / 4 * 9
                                                 : (size_t)(first + c) * 4);
            v4u a = (packed ? unpack4(at) : load4(at)) ^ mask;
            v4u b = (packed ? unpack4(at + step) : load4(at + step)) ^ mask;
            v4u d = (packed ? unpack4(at + 2 * step) : load4(at + 2 * step)) ^ mask;
            v4u e = (packed ? unpack4(at + 3 * step) : load4(at + 3 * step)) ^ mask;
            v4u ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
            v4u ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            v4u de0 = __builtin_shufflevector(d, e, 0, 4, 1, 5);
            v4u de1 = __builtin_shufflevector(d, e, 2, 6, 3, 7);
            int32_t *out = scratch + (size_t)c * stride + s;
            put4(out, __builtin_shufflevector(ab0, de0, 0, 1, 4, 5));
            put4(out + stride, __builtin_shufflevector(ab0, de0, 2, 3, 6, 7));
            put4(out + 2 * stride, __builtin_shufflevector(ab1, de1, 0, 1, 4, 5));
            put4(out + 3 * stride, __builtin_shufflevector(ab1, de1, 2, 3, 6, 7));
        }
        for (uint32_t c = fours; c < channels; c++)
            for (size_t k = 0; k < 4; k++) {
                const uint8_t *stripe = source + k * step;
                uint32_t value = packed ? unpack1(stripe, first + c) : load1(stripe, first + c);
                scratch[c * stride + s + k] = (int32_t)(value ^ mask);
            }
    }
    for (; s < to; s++, source += step)
        for (uint32_t c = 0; c < channels; c++) {
            uint32_t value = packed ? unpack1(source, first + c) : load1(source, first + c);
            scratch[c * stride + s] = (int32_t)(value ^ mask);
        }
}

void pv_gather_range(const pv_job *job, uint64_t sample, size_t from, size_t to, int32_t *scratch,
                     size_t stride)
{
    if (job->packing == PV_PACKED18)
        gather(job, sample, from, to, scratch, stride, 1);
    else
        gather(job, sample, from, to, scratch, stride, 0);
}

static void gather_row(const pv_job *job, uint64_t sample, int32_t *scratch, size_t stride)
{
    pv_gather_range(job, sample, 0, job->columns, scratch, stride);
}

static uint8_t *encode_tile(int32_t *x, size_t n, uint8_t *out, pv_stats *stats)
{
    pv_writer w = pv_begin_tile(x, out);
    pv_stats found = *stats;
    size_t i = 0;
    for (; i + PV_BLOCK <= n; i += PV_BLOCK)
        pv_encode_block(&w, x + i, PV_BLOCK, &found);
    if (i < n)
        pv_encode_block(&w, x + i, (unsigned)(n - i), &found);
    *stats = found;
    return w.at + (w.bits != 0);
}

static void store_row(const int32_t *x, size_t n, uint8_t *out, pv_stats *stats)
{
    uint64_t plane = 0;
    uint32_t used = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t value = (uint32_t)x[i];
        plane += value;
        used |= value;
        value = __builtin_bswap32(value);
        memcpy(out + 4 * i, &value, 4);
    }
    stats->plane += plane;
    stats->used |= used;
}

const pv_level_ops pv_portable_ops = {gather_row, encode_tile, store_row};
