/* The level of x86-64 processors with AVX2 and BMI. */
#include "rice.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,bmi,bmi2,lzcnt")))
#define TARGET_INLINE static inline __attribute__((always_inline, target("avx2,bmi,bmi2,lzcnt")))

/* Blocks with wider pixels or mapped differences go the exact way. Below, 32 of them sum to less
 * than 2**30, and so split below the raw level. */
#define WIDE_BITS 25

TARGET_INLINE __m256i load8(const uint8_t *at)
{
    return _mm256_loadu_si256((const __m256i *)at);
}

/* Unpack eight words that begin on a byte; reads 25 bytes, of which 18 are theirs. */
TARGET_INLINE __m256i unpack8(const uint8_t *at)
{
    const __m256i spread = _mm256_setr_epi8(
        0, 1, 2, -1, 2, 3, 4, -1, 4, 5, 6, -1, 6, 7, 8, -1,
        0, 1, 2, -1, 2, 3, 4, -1, 4, 5, 6, -1, 6, 7, 8, -1);
    const __m256i shift = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    __m256i raw = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)at)),
        _mm_loadu_si128((const __m128i *)(at + 9)), 1);
    __m256i value = _mm256_srlv_epi32(_mm256_shuffle_epi8(raw, spread), shift);
    return _mm256_and_si256(value, _mm256_set1_epi32(0x3ffff));
}

TARGET_INLINE void transpose8(__m256i r[8])
{
    __m256i t0 = _mm256_unpacklo_epi32(r[0], r[1]), t1 = _mm256_unpackhi_epi32(r[0], r[1]);
    __m256i t2 = _mm256_unpacklo_epi32(r[2], r[3]), t3 = _mm256_unpackhi_epi32(r[2], r[3]);
    __m256i t4 = _mm256_unpacklo_epi32(r[4], r[5]), t5 = _mm256_unpackhi_epi32(r[4], r[5]);
    __m256i t6 = _mm256_unpacklo_epi32(r[6], r[7]), t7 = _mm256_unpackhi_epi32(r[6], r[7]);
    __m256i u0 = _mm256_unpacklo_epi64(t0, t2), u1 = _mm256_unpackhi_epi64(t0, t2);
    __m256i u2 = _mm256_unpacklo_epi64(t1, t3), u3 = _mm256_unpackhi_epi64(t1, t3);
    __m256i u4 = _mm256_unpacklo_epi64(t4, t6), u5 = _mm256_unpackhi_epi64(t4, t6);
    __m256i u6 = _mm256_unpacklo_epi64(t5, t7), u7 = _mm256_unpackhi_epi64(t5, t7);
    r[0] = _mm256_permute2x128_si256(u0, u4, 0x20);
    r[1] = _mm256_permute2x128_si256(u1, u5, 0x20);
    r[2] = _mm256_permute2x128_si256(u2, u6, 0x20);
    r[3] = _mm256_permute2x128_si256(u3, u7, 0x20);
    r[4] = _mm256_permute2x128_si256(u0, u4, 0x31);
    r[5] = _mm256_permute2x128_si256(u1, u5, 0x31);
    r[6] = _mm256_permute2x128_si256(u2, u6, 0x31);
    r[7] = _mm256_permute2x128_si256(u3, u7, 0x31);
}

TARGET_INLINE void gather8(const pv_job *job, uint64_t sample, size_t to, int32_t *scratch,
                           size_t stride, int packed)
{
    const __m256i mask = _mm256_set1_epi32((int)job->xor_mask);
    const size_t step = job->stripe_bytes;
    const uint32_t first = job->first_channel;
    const uint8_t *source = job->source + job->offset_bytes + sample * step;
    for (size_t s = 0; s < to; s += 8, source += 8 * step)
        for (uint32_t c = 0; c < job->channels; c += 8) {
            const uint8_t *at = source + (packed ? (size_t)(first + c) / 4 * 9
                                                 : (size_t)(first + c) * 4);
            __m256i r[8];
            for (int k = 0; k < 8; k++) {
                __m256i value = packed ? unpack8(at + (size_t)k * step)
                                       : load8(at + (size_t)k * step);
                r[k] = _mm256_xor_si256(value, mask);
            }
            transpose8(r);
            int32_t *out = scratch + (size_t)c * stride + s;
            for (int k = 0; k < 8; k++)
                _mm256_storeu_si256((__m256i *)(out + (size_t)k * stride), r[k]);
        }
}

TARGET static void gather_row(const pv_job *job, uint64_t sample, int32_t *scratch, size_t stride)
{
    const size_t columns = job->columns;
    size_t eights = columns / 8 * 8;
    if (job->channels % 8 || (job->packing == PV_PACKED18 && job->first_channel % 4)) {
        eights = 0;
    } else if (job->packing == PV_PACKED18) {
        /* unpack8() reads seven bytes too many: keep away from the end of the source. */
        uint64_t end = job->offset_bytes + (sample + eights) * job->stripe_bytes;
        while (eights && end + 7 > job->source_bytes) {
            eights -= 8;
            end -= 8 * job->stripe_bytes;
        }
        gather8(job, sample, eights, scratch, stride, 1);
    } else {
        gather8(job, sample, eights, scratch, stride, 0);
    }
    if (eights < columns)
        pv_gather_range(job, sample, eights, columns, scratch, stride);
}

TARGET_INLINE __m256i mapped(const int32_t *x, __m256i value)
{
    __m256i d = _mm256_sub_epi32(value, _mm256_loadu_si256((const __m256i *)(x - 1)));
    return _mm256_xor_si256(_mm256_slli_epi32(d, 1), _mm256_srai_epi32(d, 31));
}

TARGET_INLINE uint32_t any_of(__m256i v)
{
    __m128i w = _mm_or_si128(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    w = _mm_or_si128(w, _mm_shuffle_epi32(w, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(w) | (uint32_t)_mm_extract_epi32(w, 1);
}

TARGET_INLINE uint32_t sum_of(__m256i v)
{
    __m128i w = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    w = _mm_add_epi32(w, _mm_shuffle_epi32(w, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(w) + (uint32_t)_mm_extract_epi32(w, 1);
}

typedef struct {
    __m256i code, length; /* four codes of at most 64 bits, and their lengths */
} joined;

/* Join neighbouring codes of 32-bit lanes; the first pixel has the low lane. */
TARGET_INLINE joined join_pairs(__m256i z, __m128i level, __m256i mask, __m256i one, __m256i fixed)
{
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    __m256i code = _mm256_or_si256(_mm256_and_si256(z, mask), one);
    __m256i length = _mm256_add_epi32(_mm256_srl_epi32(z, level), fixed);
    __m256i after = _mm256_srli_epi64(length, 32);
    joined pair;
    pair.code = _mm256_or_si256(_mm256_sllv_epi64(_mm256_and_si256(code, low), after),
                                _mm256_srli_epi64(code, 32));
    pair.length = _mm256_add_epi64(_mm256_and_si256(length, low), after);
    return pair;
}

/* Join neighbouring pairs of two vectors; the order is a0 b0 a1 b1. */
TARGET_INLINE joined join_quads(joined a, joined b)
{
    __m256i after = _mm256_unpackhi_epi64(a.length, b.length);
    joined quad;
    quad.code = _mm256_or_si256(
        _mm256_sllv_epi64(_mm256_unpacklo_epi64(a.code, b.code), after),
        _mm256_unpackhi_epi64(a.code, b.code));
    quad.length = _mm256_add_epi64(_mm256_unpacklo_epi64(a.length, b.length), after);
    return quad;
}

TARGET_INLINE int too_long(__m256i lengths)
{
    return _mm256_movemask_epi8(
        _mm256_cmpgt_epi32(lengths, _mm256_set1_epi64x(PV_MERGED_BITS)));
}

TARGET_INLINE void put_four(pv_writer *w, joined j, int quads)
{
    uint64_t code[4], length[4];
    _mm256_storeu_si256((__m256i *)code, j.code);
    _mm256_storeu_si256((__m256i *)length, j.length);
    const int second = quads ? 2 : 1, third = quads ? 1 : 2;
    pv_put(w, code[0], (unsigned)length[0]);
    pv_put(w, code[second], (unsigned)length[second]);
    pv_put(w, code[third], (unsigned)length[third]);
    pv_put(w, code[3], (unsigned)length[3]);
}

TARGET static uint8_t *encode_tile(int32_t *x, size_t n, uint8_t *out, pv_stats *stats)
{
    pv_writer w = pv_begin_tile(x, out);
    pv_stats found = *stats;
    __m256i plane = _mm256_setzero_si256(), used = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + PV_BLOCK <= n; i += PV_BLOCK) {
        const int32_t *b = x + i;
        __m256i x0 = _mm256_loadu_si256((const __m256i *)b);
        __m256i x1 = _mm256_loadu_si256((const __m256i *)(b + 8));
        __m256i x2 = _mm256_loadu_si256((const __m256i *)(b + 16));
        __m256i x3 = _mm256_loadu_si256((const __m256i *)(b + 24));
        __m256i z0 = mapped(b, x0), z1 = mapped(b + 8, x1);
        __m256i z2 = mapped(b + 16, x2), z3 = mapped(b + 24, x3);
        __m256i seen = _mm256_or_si256(_mm256_or_si256(x0, x1), _mm256_or_si256(x2, x3));
        __m256i wide = _mm256_or_si256(_mm256_or_si256(z0, z1), _mm256_or_si256(z2, z3));
        wide = _mm256_srli_epi32(_mm256_or_si256(wide, seen), WIDE_BITS);
        if (PV_UNLIKELY(!_mm256_testz_si256(wide, wide))) {
            pv_encode_block(&w, b, PV_BLOCK, &found);
            continue;
        }
        used = _mm256_or_si256(used, seen);
        __m256i part = _mm256_add_epi32(_mm256_add_epi32(x0, x1), _mm256_add_epi32(x2, x3));
        plane = _mm256_add_epi64(plane, _mm256_add_epi64(
            _mm256_srli_epi64(part, 32),
            _mm256_and_si256(part, _mm256_set1_epi64x(0xffffffff))));
        uint32_t sum = sum_of(
            _mm256_add_epi32(_mm256_add_epi32(z0, z1), _mm256_add_epi32(z2, z3)));
        if (PV_UNLIKELY(sum == 0)) {
            pv_put(&w, 0, PV_LEVEL_BITS);
            continue;
        }
        const unsigned half = (sum < 17 ? 0 : sum - 17) >> 6;
        const unsigned level = 32u - (unsigned)_lzcnt_u32(half);
        const __m128i count = _mm_cvtsi32_si128((int)level);
        const __m256i one = _mm256_set1_epi32((int)(1u << level));
        const __m256i mask = _mm256_sub_epi32(one, _mm256_set1_epi32(1));
        const __m256i fixed = _mm256_set1_epi32((int)level + 1);
        joined p0 = join_pairs(z0, count, mask, one, fixed);
        joined p1 = join_pairs(z1, count, mask, one, fixed);
        joined p2 = join_pairs(z2, count, mask, one, fixed);
        joined p3 = join_pairs(z3, count, mask, one, fixed);
        joined q0 = join_quads(p0, p1), q1 = join_quads(p2, p3);
        pv_put(&w, level + 1, PV_LEVEL_BITS);
        if (PV_LIKELY(!(too_long(q0.length) | too_long(q1.length)))) {
            uint64_t code[8], length[8];
            _mm256_storeu_si256((__m256i *)code, q0.code);
            _mm256_storeu_si256((__m256i *)length, q0.length);
            _mm256_storeu_si256((__m256i *)(code + 4), q1.code);
            _mm256_storeu_si256((__m256i *)(length + 4), q1.length);
            static const unsigned char order[8] = {0, 2, 1, 3, 4, 6, 5, 7};
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++)
                pv_put(&w, code[order[k]], (unsigned)length[order[k]]);
        } else if (PV_LIKELY(!(too_long(p0.length) | too_long(p1.length) | too_long(p2.length) |
                               too_long(p3.length)))) {
            put_four(&w, p0, 0);
            put_four(&w, p1, 0);
            put_four(&w, p2, 0);
            put_four(&w, p3, 0);
        } else {
            uint32_t z[PV_BLOCK];
            _mm256_storeu_si256((__m256i *)z, z0);
            _mm256_storeu_si256((__m256i *)(z + 8), z1);
            _mm256_storeu_si256((__m256i *)(z + 16), z2);
            _mm256_storeu_si256((__m256i *)(z + 24), z3);
            for (unsigned k = 0; k < PV_BLOCK; k++)
                pv_put_long(&w, z[k] >> level, (z[k] & ((1u << level) - 1)) | 1u << level,
                            level + 1);
        }
    }
    uint64_t planes[4];
    _mm256_storeu_si256((__m256i *)planes, plane);
    found.plane += planes[0] + planes[1] + planes[2] + planes[3];
    found.used |= any_of(used);
    if (i < n)
        pv_encode_block(&w, x + i, (unsigned)(n - i), &found);
    *stats = found;
    return w.at + (w.bits != 0);
}

TARGET static void store_row(const int32_t *x, size_t n, uint8_t *out, pv_stats *stats)
{
    const __m256i swap = _mm256_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12,
                                          3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    __m256i plane = _mm256_setzero_si256(), used = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i value = _mm256_loadu_si256((const __m256i *)(x + i));
        used = _mm256_or_si256(used, value);
        plane = _mm256_add_epi64(plane, _mm256_add_epi64(_mm256_srli_epi64(value, 32),
                                                         _mm256_and_si256(value, low)));
        _mm256_storeu_si256((__m256i *)(out + 4 * i), _mm256_shuffle_epi8(value, swap));
    }
    uint64_t planes[4];
    _mm256_storeu_si256((__m256i *)planes, plane);
    stats->plane += planes[0] + planes[1] + planes[2] + planes[3];
    stats->used |= any_of(used);
    for (; i < n; i++) {
        uint32_t value = (uint32_t)x[i];
        stats->plane += value;
        stats->used |= value;
        value = __builtin_bswap32(value);
        memcpy(out + 4 * i, &value, 4);
    }
}

const pv_level_ops pv_avx2_ops = {gather_row, encode_tile, store_row};

#else
/* ISO C wants a declaration in each file. */
typedef int pv_no_avx2;
#endif
