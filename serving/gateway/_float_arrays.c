/* A JSON array of numbers, straight into float32: no tree, no object and no double for each.
 *
 * Takes only what is plainly right and says nothing about the rest: whoever calls has a slower reader that does.
 * Numbers become what a reader of doubles makes of them, and then float32: the same bits, in half of the time.
 *
 * A number of up to 19 digits is w * 10^e with an integer w. For |e| <= 22 it is computed here as a product of doubles,
 * off by three units in the last place at most: one half each for w, the power and the product, of a significand of
 * almost 2. That is enough to know the float32, unless it lies that close to the middle between two of them: then, and
 * for what is longer or further from 1, CPython's own correctly rounded conversion decides (after Clinger, "How to read
 * floating point numbers accurately", 1990).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <stdint.h>
#include <string.h>

#define MOST_DIGITS 19 /* 10^19 - 1 fits 64 bits */
#define MOST_DEEP 32
#define LAST_BITS ((UINT64_C(1) << 29) - 1) /* that a double has and a float32 has not */
#define MIDDLE (UINT64_C(1) << 28)
#define UNSURE 8 /* units in a double's last place: more than what a product can be off */

#define LEAST ((double)FLT_MIN * 2)
#define MOST ((double)FLT_MAX / 2)

static const uint64_t WHOLE_POWERS[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};
static const double POWERS[] = {1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11,
                                1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3,
                                1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
                                1e19, 1e20, 1e21, 1e22};
#define MOST_EXPONENT 22

static inline int is_digit(char c) { return (unsigned char)(c - '0') < 10; }

/* Text is that of a bytes object: a 0 stands behind it, which is nothing that is looked for here. */
static inline const char *past_space(const char *at) {
    while ((unsigned char)*at <= ' ' && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    return at;
}

/* Of eight digits, each a byte of its own value, the first the lowest: pairs, then fours, then all.
 * Lemire, "Quickly parsing eight digits", 2018.
 */
static inline uint32_t number_of(uint64_t digits) {
    digits = digits * 10 + (digits >> 8);
    return (uint32_t)(((digits & UINT64_C(0x000000FF000000FF)) * UINT64_C(0x000F424000000064) +
                       ((digits >> 16) & UINT64_C(0x000000FF000000FF)) * UINT64_C(0x0000271000000001)) >>
                      32);
}

/* Digits from `at` on, appended to *w, which is right while there are MOST_DIGITS of them at most; where they end.
 *
 * Eight at a time, and the last few without a loop that ends somewhere else in each number: a branch that the
 * processor foretells wrongly costs as much as ten digits.
 */
static inline const char *take_digits(const char *at, const char *end, uint64_t *w) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        uint64_t others = ((word + UINT64_C(0x4646464646464646)) | (word - UINT64_C(0x3030303030303030))) &
                          UINT64_C(0x8080808080808080); /* the highest bit of a character that is no digit */
        word -= UINT64_C(0x3030303030303030);
        if (others == 0) {
            *w = *w * 100000000 + number_of(word);
            at += 8;
            continue;
        }
        int found = __builtin_ctzll(others) >> 3;
        word = word << 4 * (8 - found) << 4 * (8 - found); /* as if zeros stood in front; 64 at once is undefined */
        *w = *w * WHOLE_POWERS[found] + number_of(word);
        return at + found;
    }
#endif
    for (; is_digit(*at); at++) *w = *w * 10 + (uint64_t)(*at - '0');
    return at;
}

/* The number at `at` as JSON has them; where it ends, NULL if it is none or does not fit float32. */
static inline const char *take_number(const char *at, const char *end, float *out) {
    uint32_t negative = *at == '-'; /* no branch: a processor cannot foretell signs */
    int whole = 1;
    const char *begins = at += negative;
    if (!is_digit(*at)) return NULL;
    uint64_t w = (uint64_t)(*at++ - '0');
    if (is_digit(*at)) {
        if (w == 0) return NULL;
        at = take_digits(at, end, &w);
    }
    Py_ssize_t digits = at - begins - (*begins == '0'), exponent = 0;
    if (*at == '.') {
        const char *fraction = ++at;
        at = take_digits(at, end, &w);
        if (at == fraction) return NULL;
        exponent = fraction - at;
        digits -= exponent;
        whole = 0;
    }
    if (*at == 'e' || *at == 'E') {
        int down = 0;
        Py_ssize_t by = 0;
        at++;
        if (*at == '+' || *at == '-') down = *at++ == '-';
        if (!is_digit(*at)) return NULL;
        for (; is_digit(*at); at++)
            if (by < 100000) by = by * 10 + (*at - '0');
        exponent += down ? -by : by;
        whole = 0;
    }
    double value = 0.0;
    int sure = 0;
    if (digits <= MOST_DIGITS && exponent >= -MOST_EXPONENT && exponent <= MOST_EXPONENT) {
        value = (double)w * POWERS[exponent + MOST_EXPONENT];
        uint64_t bits;
        memcpy(&bits, &value, 8);
        bits = (bits & LAST_BITS) - (MIDDLE - UNSURE);
        sure = w == 0 || (bits > 2 * UNSURE && value > LEAST && value < MOST);
    }
    if (!sure) {
        char *stops;
        value = PyOS_string_to_double(begins, &stops, NULL);
        if (stops != at) {
            PyErr_Clear();
            return NULL;
        }
    }
    float narrow = (float)value;
    if (narrow > FLT_MAX) return NULL;
    uint32_t bits;
    memcpy(&bits, &narrow, 4);
    bits |= (negative & !(whole & (digits == 0))) << 31; /* the whole number -0 is 0 */
    memcpy(out, &bits, 4);
    return at;
}

PyDoc_STRVAR(take_floats_doc,
             "take_floats(text: bytes, start: int, out) -> tuple[int, int] | None\n\n"
             "The JSON array that begins at start, flat or nested, into out, a writable buffer of float32.\n\n"
             "Returns how many numbers and where the array ends; None if it is no array of finite numbers that\n"
             "fit float32, holds an empty one, or has more numbers than out has room for.");

static PyObject *take_floats(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *bytes;
    Py_ssize_t start;
    Py_buffer out;
    if (!PyArg_ParseTuple(args, "Snw*", &bytes, &start, &out)) return NULL;
    const char *text = PyBytes_AS_STRING(bytes), *end = text + PyBytes_GET_SIZE(bytes);
    const char *at = text + start, *array_ends = NULL;
    float *values = out.buf;
    Py_ssize_t count = 0, room = out.len / (Py_ssize_t)sizeof(float);
    int depth = 0;
    if (start < 0 || start >= end - text || *at != '[') goto done;
    for (;;) { /* at a value */
        at = past_space(at);
        if (*at == '[') {
            if (++depth > MOST_DEEP) goto done;
            at++;
            continue;
        }
        if (count == room || (at = take_number(at, end, &values[count])) == NULL) goto done;
        count++;
        for (;;) { /* behind a value */
            at = past_space(at);
            char c = *at++;
            if (c == ',') break;
            if (c != ']') goto done;
            if (--depth == 0) {
                array_ends = at;
                goto done;
            }
        }
    }
done:
    PyBuffer_Release(&out);
    if (array_ends == NULL) Py_RETURN_NONE;
    return Py_BuildValue("nn", count, (Py_ssize_t)(array_ends - text));
}

static PyMethodDef methods[] = {{"take_floats", take_floats, METH_VARARGS, take_floats_doc}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_float_arrays", .m_size = 0,
                                        .m_methods = methods};

PyMODINIT_FUNC PyInit__float_arrays(void) { return PyModule_Create(&definition); }
