/* Checks of a job, layout of its buffer, and the loop over tiles. */
#include "rice.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define LINE 64u
#define DESCRIPTOR 8u
#define WRITER_SLACK 8u
/* Values before and after a channel's pixels in the scratch: x[-1], and room that keeps channels
 * of one power-of-two width from falling on the same cache sets. */
#define LEAD 16u
#define STAGGER 32u

typedef struct {
    uint64_t tiles;
    uint64_t stride;        /* of the scratch, in pixels */
    uint64_t scratch_bytes;
    uint64_t table_bytes;
    uint64_t segment_bytes; /* room of a data unit */
    uint64_t total_bytes;
} layout;

static uint64_t tile_bound(uint64_t n)
{
    uint64_t blocks = (n + PV_BLOCK - 1) / PV_BLOCK;
    return 4 + 4 * n + (PV_LEVEL_BITS * blocks + 7) / 8;
}

static int lay_out(uint32_t columns, uint32_t rows, uint32_t channels, uint32_t tile_rows,
                   layout *l)
{
    if (!columns || !rows || !channels || columns > PV_MAX_AXIS || rows > PV_MAX_AXIS ||
        channels > PV_MAX_CHANNELS)
        return PV_BAD_GEOMETRY;
    uint64_t pixels = (uint64_t)columns * rows;
    uint32_t height = tile_rows < rows ? tile_rows : rows;
    uint64_t tile = (uint64_t)columns * (height ? height : 1);
    l->stride = (tile + LEAD + STAGGER + 15) / 16 * 16;
    l->scratch_bytes = l->stride * channels * 4;
    if (tile_rows) {
        uint64_t last = rows % height;
        l->tiles = (rows + height - 1) / height;
        l->table_bytes = l->tiles * DESCRIPTOR;
        uint64_t heap = rows / height * tile_bound(tile);
        if (last)
            heap += tile_bound(columns * last);
        l->segment_bytes = l->table_bytes + heap + WRITER_SLACK;
    } else {
        l->tiles = rows;
        l->table_bytes = 0;
        l->segment_bytes = 4 * pixels;
    }
    if (l->segment_bytes > PV_MAX_SEGMENT_BYTES || l->scratch_bytes > PV_MAX_SEGMENT_BYTES)
        return PV_BAD_GEOMETRY;
    l->segment_bytes = (l->segment_bytes + LINE - 1) / LINE * LINE + LINE;
    l->total_bytes = LINE + l->scratch_bytes + channels * l->segment_bytes;
    return PV_OK;
}

uint64_t pv_buffer_bytes(uint32_t columns, uint32_t rows, uint32_t channels, uint32_t tile_rows)
{
    layout l;
    return lay_out(columns, rows, channels, tile_rows, &l) == PV_OK ? l.total_bytes : 0;
}

int pv_has_level(uint32_t level)
{
    if (level == PV_PORTABLE)
        return 1;
#if defined(__x86_64__)
    if (level == PV_AVX2) {
        unsigned a, b, c, d;
        __builtin_cpu_init();
        /* Not every compiler knows the name of LZCNT: extended leaf 1, ECX bit 5. */
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
               __builtin_cpu_supports("bmi2") && __get_cpuid(0x80000001, &a, &b, &c, &d) &&
               (c >> 5 & 1);
    }
#endif
    return 0;
}

/* Add 64-bit words with the carry brought round: 2**64 - 1 is a multiple of 2**32 - 1. */
static uint64_t sum_pairs(const uint8_t *data, uint64_t words, uint64_t sum)
{
    uint64_t pairs = words / 2;
    for (uint64_t i = 0; i < pairs; i++) {
        uint64_t value;
        memcpy(&value, data + 8 * i, 8);
        value = __builtin_bswap64(value);
        sum += value;
        sum += sum < value;
    }
    if (words & 1) {
        uint32_t value;
        memcpy(&value, data + 8 * pairs, 4);
        uint64_t wide = __builtin_bswap32(value);
        sum += wide;
        sum += sum < wide;
    }
    return sum;
}

static uint32_t fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    return (uint32_t)sum;
}

static uint32_t finish_sum(const uint8_t *data, uint64_t done, uint64_t bytes, uint64_t sum)
{
    uint64_t words = (bytes - done) / 4;
    sum = sum_pairs(data + done, words, sum);
    uint64_t rest = (bytes - done) & 3;
    if (rest) {
        uint8_t last[4] = {0, 0, 0, 0};
        memcpy(last, data + done + 4 * words, rest);
        sum = sum_pairs(last, 1, sum);
    }
    return fold(sum);
}

uint32_t pv_sum(const uint8_t *data, uint64_t bytes)
{
    return finish_sum(data, 0, bytes, 0);
}

static int check_map(const pv_job *job)
{
    uint8_t seen[PV_MAX_CHANNELS] = {0};
    for (uint32_t i = 0; i < job->channels; i++) {
        if (job->map[i] >= job->channels || seen[job->map[i]])
            return PV_BAD_MAP;
        seen[job->map[i]] = 1;
    }
    return PV_OK;
}

static int check_source(const pv_job *job)
{
    if (job->packing != PV_INT32 && job->packing != PV_PACKED18)
        return PV_BAD_GEOMETRY;
    if (job->first_channel > PV_MAX_CHANNELS * PV_MAX_CHANNELS)
        return PV_BAD_GEOMETRY;
    uint64_t words = (uint64_t)job->first_channel + job->channels;
    uint64_t needed = job->packing == PV_INT32 ? 4 * words : (18 * words + 7) / 8;
    uint64_t samples = (uint64_t)job->columns * job->rows;
    if (job->stripe_bytes < needed)
        return PV_SHORT_SOURCE;
    if (job->stripe_bytes > job->source_bytes || job->offset_bytes > job->source_bytes ||
        (job->source_bytes - job->offset_bytes) / job->stripe_bytes < samples)
        return PV_SHORT_SOURCE;
    return PV_OK;
}

static void put_descriptor(uint8_t *table, uint64_t tile, uint32_t bytes, uint32_t offset)
{
    pv_store_be64(table + DESCRIPTOR * tile, (uint64_t)bytes << 32 | offset);
}

int pv_encode(const pv_job *job, pv_segment *segments, uint32_t *used_bits)
{
    layout l;
    int status = lay_out(job->columns, job->rows, job->channels, job->tile_rows, &l);
    if (status == PV_OK)
        status = check_map(job);
    if (status == PV_OK)
        status = check_source(job);
    if (status != PV_OK)
        return status;
    if (job->buffer_bytes < l.total_bytes)
        return PV_SHORT_BUFFER;
    if (!pv_has_level(job->level))
        return PV_BAD_LEVEL;
    const pv_level_ops *ops = &pv_portable_ops;
#if defined(__x86_64__)
    if (job->level == PV_AVX2)
        ops = &pv_avx2_ops;
#endif

    uint8_t *aligned = job->buffer + (LINE - (uintptr_t)job->buffer % LINE) % LINE;
    int32_t *scratch = (int32_t *)(void *)aligned + LEAD;
    uint8_t *units = aligned + l.scratch_bytes;
    const uint32_t columns = job->columns;
    const uint32_t height = job->tile_rows == 0 ? 1
                            : job->tile_rows < job->rows ? job->tile_rows : job->rows;
    uint8_t *at[PV_MAX_CHANNELS];
    uint64_t summed[PV_MAX_CHANNELS] = {0}, sums[PV_MAX_CHANNELS] = {0};
    pv_stats stats[PV_MAX_CHANNELS] = {{0, 0}};
    for (uint32_t h = 0; h < job->channels; h++) {
        at[h] = units + h * l.segment_bytes + l.table_bytes;
        segments[h].longest_tile = 0;
    }

    for (uint64_t tile = 0, row = 0; tile < l.tiles; tile++) {
        uint32_t count = job->rows - row < height ? (uint32_t)(job->rows - row) : height;
        for (uint32_t r = 0; r < count; r++, row++)
            ops->gather(job, row * columns, scratch + (size_t)r * columns, l.stride);
        size_t pixels = (size_t)columns * count;
        for (uint32_t h = 0; h < job->channels; h++) {
            int32_t *x = scratch + job->map[h] * l.stride;
            if (!job->tile_rows) {
                ops->store(x, pixels, at[h], &stats[h]);
                at[h] += 4 * pixels;
                continue;
            }
            uint8_t *heap = units + h * l.segment_bytes + l.table_bytes;
            uint8_t *end = ops->encode(x, pixels, at[h], &stats[h]);
            uint32_t bytes = (uint32_t)(end - at[h]);
#ifdef PV_PROVE_BOUNDS
            if (bytes > tile_bound(pixels))
                __builtin_trap();
#endif
            put_descriptor(heap - l.table_bytes, tile, bytes, (uint32_t)(at[h] - heap));
            if (bytes > segments[h].longest_tile)
                segments[h].longest_tile = bytes;
            at[h] = end;
            uint64_t words = ((uint64_t)(end - heap) - summed[h]) / 4;
            sums[h] = sum_pairs(heap + summed[h], words, sums[h]);
            summed[h] += 4 * words;
        }
    }

    uint32_t used = 0;
    for (uint32_t h = 0; h < job->channels; h++) {
        uint8_t *unit = units + h * l.segment_bytes;
        pv_segment *s = &segments[h];
        s->offset = (uint64_t)(unit - job->buffer);
        s->bytes = (uint64_t)(at[h] - unit);
        s->heap_bytes = job->tile_rows ? (uint32_t)(s->bytes - l.table_bytes) : 0;
        s->plane_sum = fold(stats[h].plane);
        used |= stats[h].used;
        if (job->tile_rows) {
            uint64_t sum = sum_pairs(unit, l.table_bytes / 4, sums[h]);
            s->data_sum = finish_sum(unit + l.table_bytes, summed[h], s->heap_bytes, sum);
        } else {
            s->data_sum = s->plane_sum;
        }
    }
    *used_bits = used;
    return PV_OK;
}
