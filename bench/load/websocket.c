/* The server's side of RFC 6455, as far as the protocol of the agent uses it. */
#define _GNU_SOURCE
#include "load.h"

#include <string.h>

static uint32_t rotate(uint32_t value, int bits)
{
    return value << bits | value >> (32 - bits);
}

/* FIPS 180-4, section 6.1.2. */
static void sha1_block(uint32_t state[5], const uint8_t *block)
{
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                     : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                     : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                              : (b ^ c ^ d) + 0xca62c1d6;
        uint32_t next = rotate(a, 5) + f + e + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* SHA-1 of a text of 64 to 119 bytes minus padding: a key and the GUID have 60, in two blocks. */
static void sha1_of_60(const char *text, uint8_t digest[20])
{
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t blocks[128] = {0};
    memcpy(blocks, text, 60);
    blocks[60] = 0x80;
    blocks[126] = 60 * 8 >> 8;
    blocks[127] = (60 * 8) & 0xff;
    sha1_block(state, blocks);
    sha1_block(state, blocks + 64);
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(state[i / 4] >> (24 - i % 4 * 8));
}

static void base64_of_20(const uint8_t *data, char text[29])
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t padded[21] = {0};
    memcpy(padded, data, 20);
    for (int i = 0; i < 28; i++) {
        int bit = i * 6;
        uint32_t pair = (uint32_t)padded[bit / 8] << 8 | (bit / 8 + 1 < 21 ? padded[bit / 8 + 1] : 0);
        text[i] = letters[pair >> (10 - bit % 8) & 63];
    }
    text[27] = '=';
    text[28] = 0;
}

bool ws_accept(const char *head, const char *subprotocol, struct buffer *out)
{
    static const char field[] = "\r\nsec-websocket-key:";
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    const char *key = strcasestr(head, field);
    if (key == NULL)
        return false;
    key += sizeof field - 1;
    key += strspn(key, " ");
    if (strcspn(key, " \r\n") != 24)
        return false;
    char text[61], accept[29], answer[256];
    uint8_t digest[20];
    memcpy(text, key, 24);
    memcpy(text + 24, guid, sizeof guid);
    sha1_of_60(text, digest);
    base64_of_20(digest, accept);
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s%s%s\r\n",
                        accept, subprotocol ? "Sec-WebSocket-Protocol: " : "",
                        subprotocol ? subprotocol : "", subprotocol ? "\r\n" : "");
    buffer_append(out, answer, (size_t)size);
    return true;
}

static void unmask(char *data, size_t size, const uint8_t key[4])
{
    uint64_t wide;
    memcpy(&wide, key, 4);
    memcpy((char *)&wide + 4, key, 4);
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, data + i, 8);
        word ^= wide;
        memcpy(data + i, &word, 8);
    }
    for (; i < size; i++)
        data[i] = (char)(data[i] ^ key[i % 4]);
}

bool ws_parse(struct buffer *in, struct ws_frame *frame)
{
    const uint8_t *head = (const uint8_t *)buffer_at(in);
    size_t have = buffer_size(in), at = 2;
    if (have < at)
        return false;
    uint64_t size = head[1] & 127;
    int length_bytes = size == 126 ? 2 : size == 127 ? 8 : 0;
    if (have < at + (size_t)length_bytes + 4)
        return false;
    if (length_bytes > 0)
        size = 0;
    for (int i = 0; i < length_bytes; i++)
        size = size << 8 | head[at++];
    if ((head[0] & 0x70) != 0 || (head[1] & 128) == 0)
        fatal("the agent sent an unmasked frame, or one of an extension");
    if (size > 4u << 20)
        fatal("the agent sent a message of more than 4 MiB");
    uint8_t key[4];
    memcpy(key, head + at, 4);
    at += 4;
    if (have < at + size)
        return false;
    *frame = (struct ws_frame){
        .final = head[0] >> 7,
        .opcode = head[0] & 15,
        .payload = buffer_at(in) + at,
        .size = size,
        .total = at + size,
    };
    unmask(frame->payload, size, key);
    return true;
}

void ws_write_head(struct buffer *out, int opcode, size_t size)
{
    uint8_t head[10] = {(uint8_t)(0x80 | opcode)};
    int length_bytes = size < 126 ? 0 : size < 65536 ? 2 : 8;
    head[1] = (uint8_t)(length_bytes == 0 ? size : length_bytes == 2 ? 126 : 127);
    for (int i = 0; i < length_bytes; i++)
        head[2 + i] = (uint8_t)(size >> (8 * (length_bytes - 1 - i)));
    buffer_append(out, head, 2 + (size_t)length_bytes);
}
