/* Pixel kernel: board words in, data units of FITS image extensions out.
 *
 * One call handles one detector. It allocates nothing, keeps no state, reads and writes only the
 * buffers it is given, and answers every input with a status.
 *
 * References: FITS 4.0 sec. 4.4.2.7 (sums), 10.1-10.4.1 (tiles, RICE_1).
 */
#ifndef PLATEVAULT_KERNEL_H
#define PLATEVAULT_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum {
    PV_OK = 0,
    PV_BAD_GEOMETRY, /* a size is zero or beyond the limits below */
    PV_BAD_MAP,      /* the channels of the HDUs are no permutation */
    PV_SHORT_SOURCE, /* a word would lie outside the source */
    PV_SHORT_BUFFER, /* the buffer is smaller than pv_buffer_bytes() */
    PV_BAD_LEVEL     /* the level is unknown, or this processor lacks it */
};

enum { PV_PORTABLE = 0, PV_AVX2 = 1 };

enum { PV_INT32 = 0, PV_PACKED18 = 1 };

/* Heap offsets and tile sizes have 31 bits in a 1PB column; these limits keep every product
 * within 64 bits. */
#define PV_MAX_CHANNELS 256u
#define PV_MAX_AXIS (1u << 20)
#define PV_MAX_SEGMENT_BYTES ((uint64_t)0x7fffffff)

typedef struct {
    const uint8_t *source;
    uint64_t source_bytes;
    uint64_t offset_bytes;   /* first sample of the detector's stripes */
    uint64_t stripe_bytes;   /* from sample to sample */
    uint32_t first_channel;  /* channels before the detector's own in a stripe */
    uint32_t channels;
    const uint32_t *map;     /* channel of each HDU */
    uint32_t columns, rows;
    uint32_t packing;
    uint32_t xor_mask;
    uint32_t tile_rows;      /* 0: not compressed */
    uint32_t level;
    uint8_t *buffer;         /* any alignment; a page is best */
    uint64_t buffer_bytes;
} pv_job;

typedef struct {
    uint64_t offset;         /* of the data unit in the buffer */
    uint64_t bytes;          /* descriptors and heap, or pixels */
    uint32_t heap_bytes;
    uint32_t longest_tile;
    uint32_t data_sum;       /* of the data unit with its padding */
    uint32_t plane_sum;      /* of the pixels as big-endian integers */
} pv_segment;

/* Size of the buffer a job needs; 0 if its geometry is refused. */
uint64_t pv_buffer_bytes(uint32_t columns, uint32_t rows, uint32_t channels, uint32_t tile_rows);

/* Encode a detector. `segments` has one entry per channel; `used_bits` is the or of all counts. */
int pv_encode(const pv_job *job, pv_segment *segments, uint32_t *used_bits);

/* Sum big-endian words, the last one filled with zeros. */
uint32_t pv_sum(const uint8_t *data, uint64_t bytes);

/* Whether this processor has a level. */
int pv_has_level(uint32_t level);

#endif
