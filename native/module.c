/* The kernel for Python, with the stable ABI of 3.11. */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kernel.h"

static const char *const STATUS[] = {
    [PV_OK] = "",
    [PV_BAD_GEOMETRY] = "geometry is empty or too large",
    [PV_BAD_MAP] = "channels are no permutation",
    [PV_SHORT_SOURCE] = "source is too short for its geometry",
    [PV_SHORT_BUFFER] = "buffer is too small",
    [PV_BAD_LEVEL] = "this processor lacks the level",
};

static PyObject *fail(int status)
{
    PyErr_SetString(PyExc_ValueError, STATUS[status]);
    return NULL;
}

static PyObject *has_level(PyObject *self, PyObject *args)
{
    unsigned int level;
    (void)self;
    if (!PyArg_ParseTuple(args, "I", &level))
        return NULL;
    return PyBool_FromLong(pv_has_level(level));
}

static PyObject *buffer_bytes(PyObject *self, PyObject *args)
{
    unsigned int columns, rows, channels, tile_rows;
    (void)self;
    if (!PyArg_ParseTuple(args, "IIII", &columns, &rows, &channels, &tile_rows))
        return NULL;
    uint64_t bytes = pv_buffer_bytes(columns, rows, channels, tile_rows);
    return bytes ? PyLong_FromUnsignedLongLong(bytes) : fail(PV_BAD_GEOMETRY);
}

static PyObject *sum_words(PyObject *self, PyObject *args)
{
    Py_buffer data;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*", &data))
        return NULL;
    uint32_t sum = pv_sum(data.buf, (uint64_t)data.len);
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(sum);
}

static PyObject *segments_of(const pv_segment *segments, uint32_t channels)
{
    PyObject *list = PyList_New((Py_ssize_t)channels);
    for (uint32_t i = 0; list && i < channels; i++) {
        const pv_segment *s = &segments[i];
        PyObject *entry = Py_BuildValue("(KKIIII)", (unsigned long long)s->offset,
                                        (unsigned long long)s->bytes, s->heap_bytes,
                                        s->longest_tile, s->data_sum, s->plane_sum);
        if (!entry || PyList_SetItem(list, (Py_ssize_t)i, entry) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *encode(PyObject *self, PyObject *args)
{
    pv_job job;
    Py_buffer source, map, buffer;
    unsigned long long offset_bytes, stripe_bytes;
    unsigned int first_channel, columns, rows, packing, xor_mask, tile_rows, level;
    pv_segment segments[PV_MAX_CHANNELS];
    uint32_t channels_by_hdu[PV_MAX_CHANNELS];
    uint32_t used_bits = 0;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*KKIy*IIIIIIw*", &source, &offset_bytes, &stripe_bytes,
                          &first_channel, &map, &columns, &rows, &packing, &xor_mask, &tile_rows,
                          &level, &buffer))
        return NULL;
    size_t channels = (size_t)map.len;
    int status = channels && channels <= PV_MAX_CHANNELS ? PV_OK : PV_BAD_GEOMETRY;
    if (status == PV_OK) {
        for (size_t i = 0; i < channels; i++)
            channels_by_hdu[i] = ((const uint8_t *)map.buf)[i];
        job.source = source.buf;
        job.source_bytes = (uint64_t)source.len;
        job.offset_bytes = offset_bytes;
        job.stripe_bytes = stripe_bytes;
        job.first_channel = first_channel;
        job.channels = (uint32_t)channels;
        job.map = channels_by_hdu;
        job.columns = columns;
        job.rows = rows;
        job.packing = packing;
        job.xor_mask = xor_mask;
        job.tile_rows = tile_rows;
        job.level = level;
        job.buffer = buffer.buf;
        job.buffer_bytes = (uint64_t)buffer.len;
        PyThreadState *state = PyEval_SaveThread();
        status = pv_encode(&job, segments, &used_bits);
        PyEval_RestoreThread(state);
    }
    if (status == PV_OK)
        result = Py_BuildValue("(NI)", segments_of(segments, (uint32_t)channels), used_bits);
    else
        fail(status);
    PyBuffer_Release(&source);
    PyBuffer_Release(&map);
    PyBuffer_Release(&buffer);
    return result;
}

static PyMethodDef METHODS[] = {
    {"has_level", has_level, METH_VARARGS, "Whether this processor has a level."},
    {"buffer_bytes", buffer_bytes, METH_VARARGS, "Size of the buffer that encode() needs."},
    {"sum_words", sum_words, METH_VARARGS, "Ones' complement sum of big-endian words."},
    {"encode", encode, METH_VARARGS, "Encode the words of one detector."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "platevault.adapters.fits._kernel", "Pixel kernel.", 0, METHODS, SLOTS,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernel(void)
{
    return PyModuleDef_Init(&MODULE);
}
