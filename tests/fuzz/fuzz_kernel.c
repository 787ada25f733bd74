/* libFuzzer harness of the pixel kernel.
 *
 * Any geometry over any source, in buffers of exactly the promised size, must end with a status.
 * What was encoded must decode to the same pixels (with a decoder that shares no code with the
 * encoder), both levels must agree byte for byte, and the sums must hold.
 */
#include <stdlib.h>

#include "../../native/kernel.h"
#include "../../native/rice.h"

#define CHECK(x) \
    do { \
        if (!(x)) \
            __builtin_trap(); \
    } while (0)

typedef struct {
    const uint8_t *data;
    size_t bytes, bit;
} reader;

static unsigned next_bit(reader *r)
{
    CHECK(r->bit < 8 * r->bytes);
    unsigned value = r->data[r->bit / 8] >> (7 - r->bit % 8) & 1;
    r->bit++;
    return value;
}

static uint32_t next_bits(reader *r, unsigned count)
{
    uint32_t value = 0;
    while (count--)
        value = value << 1 | next_bit(r);
    return value;
}

static void decode(const uint8_t *data, size_t bytes, size_t n, uint32_t *pixels)
{
    reader r = {data, bytes, 0};
    uint32_t last = next_bits(&r, 32);
    for (size_t i = 0; i < n;) {
        unsigned code = next_bits(&r, 5);
        for (size_t k = 0; k < 32 && i < n; k++, i++) {
            uint32_t z = 0;
            if (code == 26) {
                z = next_bits(&r, 32);
            } else if (code) {
                uint32_t top = 0;
                while (!next_bit(&r))
                    top++;
                z = top << (code - 1) | next_bits(&r, code - 1);
            }
            last += z & 1 ? ~(z >> 1) : z >> 1;
            pixels[i] = last;
        }
    }
    CHECK((r.bit + 7) / 8 == bytes);
}

static uint32_t be32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t slow_sum(const uint8_t *data, size_t bytes)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes; i++)
        sum += (uint64_t)data[i] << (24 - 8 * (i % 4));
    while (sum >> 32)
        sum = (sum & 0xffffffff) + (sum >> 32);
    return (uint32_t)sum;
}

static uint32_t expected_word(const pv_job *job, uint64_t sample, uint32_t channel)
{
    const uint8_t *stripe = job->source + job->offset_bytes + sample * job->stripe_bytes;
    uint32_t value = 0, width = job->packing == PV_PACKED18 ? 18 : 32;
    for (uint32_t k = 0; k < width; k++) {
        uint64_t bit = (uint64_t)(job->first_channel + channel) * width + k;
        value |= (uint32_t)(stripe[bit / 8] >> (bit % 8) & 1) << k;
    }
    return value ^ job->xor_mask;
}

static void check_segment(const pv_job *job, const pv_segment *s, uint32_t channel)
{
    const uint8_t *unit = job->buffer + s->offset;
    size_t pixels = (size_t)job->columns * job->rows;
    uint32_t *found = malloc(4 * pixels);
    CHECK(found && s->offset + s->bytes <= job->buffer_bytes);
    if (!job->tile_rows) {
        CHECK(s->bytes == 4 * pixels);
        for (size_t i = 0; i < pixels; i++)
            found[i] = be32(unit + 4 * i);
    } else {
        uint32_t height = job->tile_rows < job->rows ? job->tile_rows : job->rows;
        size_t tiles = (job->rows + height - 1) / height, end = 0;
        uint32_t longest = 0;
        for (size_t t = 0; t < tiles; t++) {
            uint32_t bytes = be32(unit + 8 * t), offset = be32(unit + 8 * t + 4);
            size_t first = t * height * job->columns;
            size_t n = pixels - first < (size_t)height * job->columns
                           ? pixels - first : (size_t)height * job->columns;
            CHECK(offset == end && offset + bytes <= s->heap_bytes);
            decode(unit + 8 * tiles + offset, bytes, n, found + first);
            end += bytes;
            if (bytes > longest)
                longest = bytes;
        }
        CHECK(end == s->heap_bytes && 8 * tiles + end == s->bytes && longest == s->longest_tile);
    }
    uint64_t plane = 0;
    for (size_t i = 0; i < pixels; i++) {
        CHECK(found[i] == expected_word(job, i, channel));
        plane += found[i];
    }
    while (plane >> 32)
        plane = (plane & 0xffffffff) + (plane >> 32);
    CHECK(s->plane_sum == plane && s->data_sum == slow_sum(unit, s->bytes));
    CHECK(s->data_sum == pv_sum(unit, s->bytes));
    free(found);
}

typedef struct {
    uint8_t columns, columns_high, rows, channels, before, after, packing, tile_rows;
    uint8_t mask[4], map_seed, offset, tail, hostile;
} recipe;

static void shape(pv_job *job, const recipe *r, uint32_t *map)
{
    job->columns = r->columns + (uint32_t)(r->columns_high % 4) * 256;
    job->rows = r->rows % 40;
    job->channels = r->channels % 36;
    job->first_channel = r->before % 40;
    job->packing = r->packing % (r->hostile % 16 == 1 ? 4 : 2);
    job->tile_rows = r->tile_rows % 70;
    memcpy(&job->xor_mask, r->mask, 4);
    uint64_t words = job->first_channel + job->channels + r->after % 20;
    job->stripe_bytes = job->packing == PV_PACKED18 ? (18 * words + 7) / 8 : 4 * words;
    job->offset_bytes = r->offset;
    for (uint32_t i = 0; i < job->channels; i++)
        map[i] = (i + r->map_seed) % job->channels;
    if (r->hostile % 16 == 2)
        map[0] = r->map_seed;
    if (r->hostile % 16 == 3)
        job->stripe_bytes = r->tail;
    if (r->hostile % 16 == 4)
        job->columns *= 0x01010101u;
    if (r->hostile % 16 == 5)
        job->offset_bytes = ~(uint64_t)r->offset;
    if (r->hostile % 16 == 6)
        job->channels *= 100;
    if (r->hostile % 16 == 7)
        job->first_channel *= 0x01010101u;
}

/* Fill the source with the input again and again, or with what it leads to. */
static void fill(uint8_t *source, size_t bytes, const uint8_t *data, size_t size, uint8_t style)
{
    uint32_t state = 1;
    for (size_t i = 0; i < bytes; i++) {
        state = state * 1664525u + 1013904223u;
        if (!size)
            source[i] = 0;
        else if (style % 3 == 0 || i < size)
            source[i] = data[i % size];
        else if (style % 3 == 1)
            source[i] = data[i % 4 % size] ^ (i % 4 ? 0 : (uint8_t)(state >> 24));
        else
            source[i] = (uint8_t)(state >> 24);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    recipe r;
    uint32_t map[PV_MAX_CHANNELS * 16] = {0};
    pv_segment segments[2][PV_MAX_CHANNELS];
    uint32_t used[2];
    if (size < sizeof r)
        return 0;
    memcpy(&r, data, sizeof r);
    data += sizeof r;
    size -= sizeof r;
    pv_job job = {0};
    shape(&job, &r, map);
    job.map = map;

    uint64_t pixels = (uint64_t)job.columns * job.rows;
    uint64_t bytes = job.stripe_bytes * pixels + (r.hostile % 16 == 5 ? 0 : job.offset_bytes);
    int short_source = r.hostile % 16 == 8 && bytes;
    if (bytes > 300000)
        bytes = size;
    bytes -= (uint64_t)short_source;
    uint8_t *source = malloc(bytes ? bytes : 1);
    CHECK(source);
    fill(source, bytes, data, size, r.tail);
    job.source = source;
    job.source_bytes = bytes;

    uint64_t room = pv_buffer_bytes(job.columns, job.rows, job.channels, job.tile_rows);
    int short_buffer = r.hostile % 16 == 9 && room;
    if (room > 64000000)
        room = 1;
    room -= (uint64_t)short_buffer;
    int status[2];
    uint8_t *buffers[2];
    for (uint32_t level = 0; level < 2; level++) {
        buffers[level] = malloc(room ? room : 1);
        CHECK(buffers[level]);
        job.buffer = buffers[level];
        job.buffer_bytes = room;
        job.level = pv_has_level(level) ? level : PV_PORTABLE;
        status[level] = pv_encode(&job, segments[level], &used[level]);
        if (status[level] == PV_OK)
            for (uint32_t h = 0; h < job.channels; h++)
                check_segment(&job, &segments[level][h], map[h]);
    }
    CHECK(status[0] == status[1]);
    if (short_source || short_buffer)
        CHECK(status[0] != PV_OK);
    job.level = 2 + r.tail;
    if (status[0] == PV_OK) {
        CHECK(used[0] == used[1]);
        for (uint32_t h = 0; h < job.channels; h++) {
            const pv_segment *a = &segments[0][h], *b = &segments[1][h];
            CHECK(a->bytes == b->bytes);
            CHECK(!memcmp(buffers[0] + a->offset, buffers[1] + b->offset, a->bytes));
        }
        CHECK(pv_encode(&job, segments[0], used) == PV_BAD_LEVEL);
    }
    free(buffers[0]);
    free(buffers[1]);
    free(source);
    return 0;
}
