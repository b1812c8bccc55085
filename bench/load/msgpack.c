/* The part of MessagePack that frames of the protocol use. */
#include "load.h"

#include <string.h>

static uint64_t read_number(struct reader *reader, int bytes)
{
    uint64_t value = 0;
    if (reader->end - reader->at < bytes) {
        reader->bad = true;
        reader->at = reader->end;
        return 0;
    }
    for (int i = 0; i < bytes; i++)
        value = value << 8 | *reader->at++;
    return value;
}

static uint8_t read_type(struct reader *reader)
{
    return (uint8_t)read_number(reader, 1);
}

static uint64_t fail(struct reader *reader)
{
    reader->bad = true;
    reader->at = reader->end;
    return 0;
}

uint32_t read_array(struct reader *reader)
{
    uint8_t type = read_type(reader);
    if ((type & 0xf0) == 0x90)
        return type & 15;
    if (type == 0xdc || type == 0xdd)
        return (uint32_t)read_number(reader, type == 0xdc ? 2 : 4);
    return (uint32_t)fail(reader);
}

uint64_t read_uint(struct reader *reader)
{
    uint8_t type = read_type(reader);
    if (type < 0x80)
        return type;
    if (type >= 0xcc && type <= 0xcf)
        return read_number(reader, 1 << (type - 0xcc));
    return fail(reader);
}

bool read_null(struct reader *reader)
{
    if (reader->at == reader->end || *reader->at != 0xc0)
        return false;
    reader->at++;
    return true;
}

/* Return the size of the str or bin of this type. */
static size_t data_size(struct reader *reader, uint8_t type)
{
    if ((type & 0xe0) == 0xa0)
        return type & 31;
    if (type >= 0xc4 && type <= 0xc6)
        return read_number(reader, 1 << (type - 0xc4));
    if (type >= 0xd9 && type <= 0xdb)
        return read_number(reader, 1 << (type - 0xd9));
    return fail(reader);
}

static const char *take(struct reader *reader, size_t size)
{
    const char *data = (const char *)reader->at;
    if ((size_t)(reader->end - reader->at) < size)
        fail(reader);
    else
        reader->at += size;
    return data;
}

const char *read_bytes(struct reader *reader, size_t *size)
{
    uint8_t type = read_type(reader);
    *size = data_size(reader, type);
    const char *data = take(reader, *size);
    if (reader->bad)
        *size = 0;
    return data;
}

/* Skip the rest of the value of this type; return the number of values that it contains. */
static uint64_t skip_value(struct reader *reader, uint8_t type)
{
    if (type < 0x80 || type >= 0xe0 || type == 0xc0 || type == 0xc2 || type == 0xc3)
        return 0;
    if (type <= 0x8f)
        return 2u * (type & 15);
    if (type <= 0x9f)
        return type & 15;
    if (type >= 0xdc)
        return read_number(reader, type & 1 ? 4 : 2) * (type >= 0xde ? 2 : 1);
    if (type == 0xca || type == 0xcb)
        take(reader, type == 0xca ? 4 : 8);
    else if (type >= 0xcc && type <= 0xd3)
        take(reader, (size_t)1 << ((type - 0xcc) & 3));
    else
        take(reader, data_size(reader, type)); /* an extension type is malformed here */
    return 0;
}

void read_skip(struct reader *reader, uint32_t values)
{
    for (uint64_t left = values; left > 0 && !reader->bad; left--)
        left += skip_value(reader, read_type(reader));
}

static void put_number(struct buffer *out, uint8_t type, uint64_t value, int bytes)
{
    uint8_t *to = (uint8_t *)buffer_extend(out, 1 + (size_t)bytes);
    *to++ = type;
    for (int i = bytes - 1; i >= 0; i--)
        *to++ = (uint8_t)(value >> (8 * i));
}

void put_array(struct buffer *out, uint32_t count)
{
    if (count < 16)
        put_number(out, (uint8_t)(0x90 | count), 0, 0);
    else
        put_number(out, 0xdc, count, 2);
}

void put_uint(struct buffer *out, uint64_t value)
{
    if (value < 128)
        put_number(out, (uint8_t)value, 0, 0);
    else if (value <= UINT32_MAX)
        put_number(out, 0xce, value, 4);
    else
        put_number(out, 0xcf, value, 8);
}

void put_true(struct buffer *out)
{
    put_number(out, 0xc3, 0, 0);
}

void put_text(struct buffer *out, const char *text)
{
    size_t size = strlen(text);
    put_number(out, (uint8_t)(0xa0 | size), 0, 0); /* fixstr: up to 31 bytes */
    buffer_append(out, text, size);
}

void put_bin_head(struct buffer *out, size_t size)
{
    put_number(out, 0xc6, size, 4);
}

void put_bin(struct buffer *out, const void *data, size_t size)
{
    put_bin_head(out, size);
    buffer_append(out, data, size);
}
