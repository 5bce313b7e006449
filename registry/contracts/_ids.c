/* A ranking's ids: checked, joined and hashed in one go, without an object for each.
 *
 * Takes only what is plainly right and says nothing about the rest: whoever calls has a slower reader that does.
 *
 * The hash is XXH3, 64 bits, seed 0, default secret, of 1 to 240 bytes, written from its description: Yann Collet,
 * "xxHash fast digest algorithm", github.com/Cyan4973/xxHash, doc/xxhash_spec.md. Longer ids are left to others.
 *
 * Strings and lists are looked at twice. Nothing in between runs Python, so they are the same both times.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(__SIZEOF_INT128__) || !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "for little-endian processors of 64 bits; the others do without"
#endif

__extension__ typedef unsigned __int128 uint128;

#define MOST_BYTES 240 /* of an id: beyond it XXH3 takes another form */
#define MOST_LOOKS 64  /* for an id's place: who chooses ids may choose them to collide */
#define FEW_PLACES 512 /* what the stack has room for */
#define NOT_UTF8 PY_SSIZE_T_MAX

#define PRIME64_1 UINT64_C(0x9E3779B185EBCA87)
#define PRIME64_2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define PRIME64_3 UINT64_C(0x165667B19E3779F9)
#define PRIME_MX1 UINT64_C(0x165667919E3779F9)
#define PRIME_MX2 UINT64_C(0x9FB21C651E98DF25)

static const uint8_t SECRET[] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d,
    0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0,
    0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0,
    0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b,
    0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac,
    0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51,
    0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34,
    0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49,
    0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8,
    0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b,
    0x40, 0x7e};

static inline uint32_t word32(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, 4);
    return word;
}

static inline uint64_t word64(const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}

static inline uint64_t turned(uint64_t x, int by) { return x << by | x >> (64 - by); }

static inline uint64_t folded_product(uint64_t x, uint64_t y) {
    uint128 product = (uint128)x * y;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* 16 bytes with those of the secret. */
static inline uint64_t mixed(const uint8_t *at, const uint8_t *secret) {
    return folded_product(word64(at) ^ word64(secret), word64(at + 8) ^ word64(secret + 8));
}

static inline uint64_t avalanche(uint64_t x) {
    x = (x ^ x >> 37) * PRIME_MX1;
    return x ^ x >> 32;
}

static inline uint64_t hash_of_1_to_3(const uint8_t *key, size_t size) {
    uint32_t first = key[0], middle = key[size / 2], last = key[size - 1];
    uint32_t all = last | (uint32_t)size << 8 | first << 16 | middle << 24;
    uint64_t x = word32(SECRET) ^ word32(SECRET + 4) ^ all;
    x = (x ^ x >> 33) * PRIME64_2;
    x = (x ^ x >> 29) * PRIME64_3;
    return x ^ x >> 32;
}

static inline uint64_t hash_of_4_to_8(const uint8_t *key, size_t size) {
    uint64_t both = word32(key + size - 4) | (uint64_t)word32(key) << 32;
    uint64_t x = word64(SECRET + 8) ^ word64(SECRET + 16) ^ both;
    x = (x ^ turned(x, 49) ^ turned(x, 24)) * PRIME_MX2;
    x = (x ^ ((x >> 35) + size)) * PRIME_MX2;
    return x ^ x >> 28;
}

static inline uint64_t hash_of_9_to_16(const uint8_t *key, size_t size) {
    uint64_t low = word64(SECRET + 24) ^ word64(SECRET + 32) ^ word64(key);
    uint64_t high = word64(SECRET + 40) ^ word64(SECRET + 48) ^ word64(key + size - 8);
    return avalanche(size + __builtin_bswap64(low) + high + folded_product(low, high));
}

/* Pairs of 16 bytes, one from each end, the innermost first. */
static inline uint64_t hash_of_17_to_128(const uint8_t *key, size_t size) {
    uint64_t x = size * PRIME64_1;
    for (size_t pair = (size - 1) / 32 + 1; pair-- > 0;)
        x += mixed(key + 16 * pair, SECRET + 32 * pair) +
             mixed(key + size - 16 * (pair + 1), SECRET + 32 * pair + 16);
    return avalanche(x);
}

static uint64_t hash_of_129_to_240(const uint8_t *key, size_t size) {
    uint64_t x = size * PRIME64_1;
    for (size_t part = 0; part < 8; part++) x += mixed(key + 16 * part, SECRET + 16 * part);
    x = avalanche(x);
    for (size_t part = 8; part < size / 16; part++) x += mixed(key + 16 * part, SECRET + 16 * (part - 8) + 3);
    return avalanche(x + mixed(key + size - 16, SECRET + 119));
}

/* Of 1 to MOST_BYTES bytes. */
static inline uint64_t hash_of(const uint8_t *key, size_t size) {
    if (size <= 3) return hash_of_1_to_3(key, size);
    if (size <= 8) return hash_of_4_to_8(key, size);
    if (size <= 16) return hash_of_9_to_16(key, size);
    if (size <= 128) return hash_of_17_to_128(key, size);
    return hash_of_129_to_240(key, size);
}

/* Short copies as two that overlap: a call of memcpy costs more than the rest of a short id. */
static inline void copy(uint8_t *to, const uint8_t *from, size_t size) {
    if (size > 32) {
        memcpy(to, from, size);
    } else if (size >= 16) {
        memcpy(to, from, 16);
        memcpy(to + size - 16, from + size - 16, 16);
    } else if (size >= 8) {
        memcpy(to, from, 8);
        memcpy(to + size - 8, from + size - 8, 8);
    } else if (size >= 4) {
        memcpy(to, from, 4);
        memcpy(to + size - 4, from + size - 4, 4);
    } else {
        for (size_t i = 0; i < size; i++) to[i] = from[i];
    }
}

/* Bytes of the characters in UTF-8, NOT_UTF8 if one is a surrogate.
 *
 * Inlined for each kind, as is what puts them: PyUnicode_READ asks for the kind of each character otherwise.
 */
static inline Py_ssize_t utf8_size_of_kind(unsigned kind, const void *characters, Py_ssize_t count) {
    size_t size = (size_t)count;
    uint32_t surrogates = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t c = PyUnicode_READ(kind, characters, i);
        size += (size_t)(c >= 0x80) + (c >= 0x800) + (c >= 0x10000);
        surrogates |= c - 0xD800 < 0x800;
    }
    return surrogates ? NOT_UTF8 : (Py_ssize_t)size;
}

/* Four bytes are written for each character, whatever it needs: of a text in several scripts, no processor can foretell
 * which branch comes next. Up to three of them stand behind the end that is returned.
 */
static inline uint8_t *put_utf8_of_kind(unsigned kind, const void *characters, Py_ssize_t count, uint8_t *to) {
    static const uint32_t FIRST[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t c = PyUnicode_READ(kind, characters, i);
        uint32_t size = 1u + (c >= 0x80) + (c >= 0x800) + (c >= 0x10000);
        uint32_t bytes = 0x80808080 | c >> 18 | (c >> 12 & 0x3F) << 8 | (c >> 6 & 0x3F) << 16 | (c & 0x3F) << 24;
        bytes = bytes >> (32 - 8 * size) | FIRST[size];
        bytes = size == 1 ? c : bytes;
        memcpy(to, &bytes, 4);
        to += size;
    }
    return to;
}

static Py_ssize_t utf8_size(PyObject *id) {
    const void *characters = PyUnicode_DATA(id);
    Py_ssize_t count = PyUnicode_GET_LENGTH(id);
    switch (PyUnicode_KIND(id)) {
    case PyUnicode_1BYTE_KIND:
        return utf8_size_of_kind(PyUnicode_1BYTE_KIND, characters, count);
    case PyUnicode_2BYTE_KIND:
        return utf8_size_of_kind(PyUnicode_2BYTE_KIND, characters, count);
    default:
        return utf8_size_of_kind(PyUnicode_4BYTE_KIND, characters, count);
    }
}

static uint8_t *put_utf8(PyObject *id, uint8_t *to) {
    const void *characters = PyUnicode_DATA(id);
    Py_ssize_t count = PyUnicode_GET_LENGTH(id);
    switch (PyUnicode_KIND(id)) {
    case PyUnicode_1BYTE_KIND:
        return put_utf8_of_kind(PyUnicode_1BYTE_KIND, characters, count, to);
    case PyUnicode_2BYTE_KIND:
        return put_utf8_of_kind(PyUnicode_2BYTE_KIND, characters, count, to);
    default:
        return put_utf8_of_kind(PyUnicode_4BYTE_KIND, characters, count, to);
    }
}

/* Bytes of the ids joined by one between each two; -1 if one is not plainly an id, whatever its characters. */
static Py_ssize_t joined_size(PyObject *ids, Py_ssize_t max_chars) {
    Py_ssize_t count = PyList_GET_SIZE(ids), total = count - 1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *id = PyList_GET_ITEM(ids, i);
        if (!PyUnicode_CheckExact(id)) return -1;
#if PY_VERSION_HEX < 0x030C0000
        if (!PyUnicode_IS_READY(id)) return -1;
#endif
        Py_ssize_t size = PyUnicode_GET_LENGTH(id);
        if (size == 0 || size > max_chars || size > MOST_BYTES) return -1;
        if (!PyUnicode_IS_ASCII(id) && (size = utf8_size(id)) > MOST_BYTES) return -1;
        total += size;
    }
    return total;
}

/* The ids joined by NUL, and the hash of each. */
static void put_joined(PyObject *ids, uint8_t *joined, uint64_t *hashes) {
    uint8_t room[MOST_BYTES + 3];
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(ids); i++) {
        PyObject *id = PyList_GET_ITEM(ids, i);
        if (i > 0) *joined++ = 0;
        const uint8_t *text = room;
        size_t size;
        if (PyUnicode_IS_ASCII(id)) {
            text = PyUnicode_DATA(id);
            size = (size_t)PyUnicode_GET_LENGTH(id);
        } else {
            size = (size_t)(put_utf8(id, room) - room);
        }
        copy(joined, text, size);
        hashes[i] = hash_of(text, size);
        joined += size;
    }
}

/* Control characters: in UTF-8 these bytes are nothing else. */
static size_t controls(const uint8_t *text, size_t size) {
    size_t found = 0;
    while (size > 0) {
        size_t part = size < 255 ? size : 255; /* as many as a byte can count: 16 at a time */
        uint8_t of_part = 0;
        for (size_t i = 0; i < part; i++) of_part = (uint8_t)(of_part + ((text[i] < 0x20) | (text[i] == 0x7F)));
        found += of_part;
        text += part;
        size -= part;
    }
    return found;
}

/* Whether all differ; 0 also if one is 0, which says that a place is empty, or too many want to be in one place. */
static int all_differ(const uint64_t *hashes, size_t count, uint64_t *places, size_t last) {
    for (size_t i = 0; i < count; i++) {
        uint64_t hash = hashes[i];
        size_t place = hash & last;
        for (int looks = 0; places[place] != 0; looks++, place = (place + 1) & last)
            if (places[place] == hash || looks == MOST_LOOKS) return 0;
        if (hash == 0) return 0;
        places[place] = hash;
    }
    return 1;
}

static int are_distinct(const uint64_t *hashes, size_t count) {
    uint64_t few[FEW_PLACES], *places = few;
    size_t size = 16;
    while (size < 2 * count) size *= 2;
    if (size > FEW_PLACES) {
        if ((places = PyMem_Calloc(size, sizeof(uint64_t))) == NULL) return 0;
    } else {
        memset(few, 0, size * sizeof(uint64_t));
    }
    int distinct = all_differ(hashes, count, places, size - 1);
    if (places != few) PyMem_Free(places);
    return distinct;
}

_Static_assert(offsetof(PyBytesObject, ob_sval) % sizeof(uint64_t) == 0, "hashes are written into bytes as they are");

PyDoc_STRVAR(join_ids_doc,
             "join_ids(ids: list[str], max_chars: int) -> tuple[bytes, bytes] | None\n\n"
             "The ids joined by NUL, in UTF-8, and the XXH3 of each: 8 bytes, little-endian.\n\n"
             "None if there is none, one is empty, longer than max_chars characters or 240 bytes, holds a control\n"
             "character or a lone surrogate, or may stand there twice; and for anything but a list of str.");

static PyObject *join_ids(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given) {
    if (given != 2) {
        PyErr_Format(PyExc_TypeError, "join_ids takes 2 arguments, %zd were given", given);
        return NULL;
    }
    PyObject *ids = args[0];
    Py_ssize_t max_chars = PyLong_AsSsize_t(args[1]);
    if (max_chars == -1 && PyErr_Occurred()) return NULL;
    if (!PyList_CheckExact(ids) || PyList_GET_SIZE(ids) == 0) Py_RETURN_NONE;
    Py_ssize_t count = PyList_GET_SIZE(ids), size = joined_size(ids, max_chars);
    if (size < 0) Py_RETURN_NONE;
    PyObject *joined = PyBytes_FromStringAndSize(NULL, size);
    PyObject *hashes = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(uint64_t));
    PyObject *both = NULL;
    if (joined != NULL && hashes != NULL) {
        uint8_t *text = (uint8_t *)PyBytes_AS_STRING(joined);
        uint64_t *numbers = (uint64_t *)(void *)PyBytes_AS_STRING(hashes);
        put_joined(ids, text, numbers);
        if (controls(text, (size_t)size) == (size_t)count - 1 && are_distinct(numbers, (size_t)count))
            both = PyTuple_Pack(2, joined, hashes);
        else
            both = Py_NewRef(Py_None);
    }
    Py_XDECREF(joined);
    Py_XDECREF(hashes);
    return both;
}

static PyMethodDef methods[] = {{"join_ids", (PyCFunction)(void (*)(void))join_ids, METH_FASTCALL, join_ids_doc},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_ids", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__ids(void) { return PyModule_Create(&definition); }
