/* The dialect of the existing Rust agent: JSON in text messages, response bytes in base64, without
   offsets or acknowledgements. Its messages have no spaces, and sorted keys. */
#define _GNU_SOURCE
#include "load.h"

#include <stdlib.h>
#include <string.h>

static struct buffer decoded;

/* Return what follows `key` in the message, NULL if it is not there. */
static const char *find(const char *message, size_t size, const char *key)
{
    const char *at = memmem(message, size, key, strlen(key));
    return at == NULL ? NULL : at + strlen(key);
}

static void send_text(const char *text, size_t size)
{
    ws_write_head(link_out(), WS_TEXT, size);
    buffer_append(link_out(), text, size);
}

static void open_link(void)
{
    static const char challenge[] =
        "{\"type\":\"auth_challenge\",\"nonce\":\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"}";
    send_text(challenge, sizeof challenge - 1);
}

static void start_job(uint32_t slot)
{
    char head[256];
    uint32_t job = slots[slot].checker.job;
    int size = snprintf(head, sizeof head,
                        "{\"type\":\"job\",\"job_id\":\"%08x-%04x-4000-8000-0000%08x\","
                        "\"model_id\":\"bench\",\"format\":\"openai\",\"deadline_ms\":3600000,\"request\":",
                        slot, phase.number, job);
    ws_write_head(link_out(), WS_TEXT, (size_t)size + request_size() + 1);
    buffer_append(link_out(), head, (size_t)size);
    buffer_append(link_out(), request_text(job), request_size());
    buffer_append(link_out(), "}", 1);
}

/* Return the slot of the message's job. */
static struct slot *read_slot(const char *message, size_t size)
{
    const char *id = find(message, size, "\"job_id\":\"");
    uint32_t slot = id == NULL ? max_streams : (uint32_t)strtoul(id, NULL, 16);
    if (slot >= phase.streams || !slots[slot].running)
        fatal("the agent sent a message about a job that does not run");
    return &slots[slot];
}

static uint32_t base64_value(char letter)
{
    if (letter >= 'A' && letter <= 'Z')
        return (uint32_t)(letter - 'A');
    if (letter >= 'a' && letter <= 'z')
        return (uint32_t)(letter - 'a') + 26;
    if (letter >= '0' && letter <= '9')
        return (uint32_t)(letter - '0') + 52;
    return letter == '+' ? 62 : letter == '/' ? 63 : 64;
}

/* Decode up to the first byte that is not base64. */
static void decode_base64(const char *text, struct buffer *out)
{
    uint32_t bits = 0, value;
    for (int count = 0; (value = base64_value(*text)) < 64; text++) {
        bits = bits << 6 | value;
        count += 6;
        if (count < 8)
            continue;
        count -= 8;
        *buffer_extend(out, 1) = (char)(bits >> count);
    }
}

static void on_chunk(const char *message, size_t size, uint64_t at_ns)
{
    const char *data = find(message, size, "\"data\":\"");
    if (data == NULL)
        fatal("the agent sent a chunk without data");
    decode_base64(data, &decoded);
    slot_received(read_slot(message, size), buffer_at(&decoded), buffer_size(&decoded), at_ns);
    buffer_consume(&decoded, buffer_size(&decoded));
}

static void on_done(const char *message, size_t size)
{
    const char *tokens = find(message, size, "\"output_tokens\":");
    if (tokens != NULL && strtoul(tokens, NULL, 10) == phase.events)
        totals.usages++;
    slot_ended(read_slot(message, size), NULL);
}

static void on_error(const char *message, size_t size)
{
    char error[128];
    const char *code = find(message, size, "\"error_code\":\"");
    snprintf(error, sizeof error, "%.*s", code ? (int)strcspn(code, "\"") : 0, code ? code : "");
    slot_ended(read_slot(message, size), error);
}

static void on_capabilities(const char *message, size_t size)
{
    const char *limit = find(message, size, "\"max_concurrent_total\":");
    bool ours = find(message, size, "\"model_id\":\"bench\"") != NULL;
    offered_jobs = ours && limit != NULL ? strtoul(limit, NULL, 10) : 0;
}

static void on_message(const char *message, size_t size, uint64_t at_ns)
{
    static const char ok[] = "{\"type\":\"auth_ok\",\"provider_id\":\"bench\"}";
    if (size == 0 || message[size - 1] != '}')
        fatal("the agent sent a message that is not a JSON object"); /* the end stops every search */
    totals.messages++;
    if (find(message, size, "\"type\":\"job_chunk\""))
        on_chunk(message, size, at_ns);
    else if (find(message, size, "\"type\":\"job_done\""))
        on_done(message, size);
    else if (find(message, size, "\"type\":\"job_error\""))
        on_error(message, size);
    else if (find(message, size, "\"type\":\"capabilities\""))
        on_capabilities(message, size);
    else if (find(message, size, "\"type\":\"auth_response\""))
        send_text(ok, sizeof ok - 1);
}

const struct dialect marketplace = {
    NULL, open_link, on_message, start_job, link_send,
};
