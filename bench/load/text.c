/* The bytes of requests and responses, and the check of every byte that comes back.

   An event carries the time at which it was written, its job and its number, inside the text of the
   model, so that they survive a relay that encodes events anew. */
#define _GNU_SOURCE
#include "load.h"

#include <stdlib.h>
#include <string.h>

#define EVENT_HEAD                                                                           \
    "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000," \
    "\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"@"
#define EVENT_END "\"},\"finish_reason\":null}]}\n\n"
#define REQUEST_HEAD                                                                     \
    "{\"model\":\"bench\",\"stream\":true,\"stream_options\":{\"include_usage\":true}," \
    "\"messages\":[{\"role\":\"user\",\"content\":\"job "
#define REQUEST_END "\"}]}"

enum {
    STAMP_DIGITS = 18,
    JOB_DIGITS = 8,
    NUMBER_DIGITS = 7,
    HEAD_BYTES = sizeof EVENT_HEAD - 1,
    MARK_BYTES = STAMP_DIGITS + 1 + JOB_DIGITS + 1 + NUMBER_DIGITS,
    REST_AT = HEAD_BYTES + MARK_BYTES,
};

static char event_template[EVENT_BYTES];
static char *request; /* as of the job that was asked for last */
static const char *prompt;
static size_t prompt_size;

void text_init(size_t prompt_bytes)
{
    memset(event_template, 'x', EVENT_BYTES);
    memset(event_template + HEAD_BYTES, ' ', MARK_BYTES + 1);
    memcpy(event_template, EVENT_HEAD, HEAD_BYTES);
    memcpy(event_template + EVENT_BYTES - (sizeof EVENT_END - 1), EVENT_END, sizeof EVENT_END - 1);
    prompt_size = prompt_bytes;
    request = allocate(1, request_size());
    char *to = (char *)mempcpy(request, REQUEST_HEAD, sizeof REQUEST_HEAD - 1) + JOB_DIGITS;
    *to++ = ' ';
    prompt = to;
    for (size_t i = 0; i < prompt_bytes; i++)
        *to++ = i % 6 == 5 ? ' ' : (char)('a' + i % 23);
    memcpy(to, REQUEST_END, sizeof REQUEST_END - 1);
}

static void write_digits(char *to, int digits, uint64_t value)
{
    for (int i = digits - 1; i >= 0; i--, value /= 10)
        to[i] = (char)('0' + value % 10);
}

static bool read_digits(const char *from, int digits, uint64_t *value)
{
    *value = 0;
    for (int i = 0; i < digits; i++) {
        if (from[i] < '0' || from[i] > '9')
            return false;
        *value = *value * 10 + (uint64_t)(from[i] - '0');
    }
    return true;
}

size_t request_size(void)
{
    return sizeof REQUEST_HEAD - 1 + JOB_DIGITS + 1 + prompt_size + sizeof REQUEST_END - 1;
}

const char *request_text(uint32_t job)
{
    write_digits(request + sizeof REQUEST_HEAD - 1, JOB_DIGITS, job);
    return request;
}

static const char *find_prompt(const char *body, size_t size)
{
    static const char mark[] = "\"job ";
    const char *at = memmem(body, size, mark, sizeof mark - 1);
    return at == NULL ? NULL : at + sizeof mark - 1;
}

bool is_request(const char *body, size_t size)
{
    return find_prompt(body, size) != NULL;
}

bool read_request(const char *body, size_t size, uint32_t *job)
{
    const char *at = find_prompt(body, size);
    uint64_t number;
    if (at == NULL || (size_t)(body + size - at) < JOB_DIGITS + 1 + prompt_size + 1)
        return false;
    if (!read_digits(at, JOB_DIGITS, &number) || at[JOB_DIGITS] != ' ')
        return false;
    *job = (uint32_t)number;
    at += JOB_DIGITS + 1;
    return memcmp(at, prompt, prompt_size) == 0 && at[prompt_size] == '"';
}

void write_event(char *to, uint32_t job, uint32_t event, uint64_t stamp_ns)
{
    memcpy(to, event_template, EVENT_BYTES);
    to += HEAD_BYTES;
    write_digits(to, STAMP_DIGITS, stamp_ns);
    write_digits(to + STAMP_DIGITS + 1, JOB_DIGITS, job);
    write_digits(to + STAMP_DIGITS + 1 + JOB_DIGITS + 1, NUMBER_DIGITS, event);
}

size_t write_tail(char *to, uint32_t events)
{
    static const char format[] =
        "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
        "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"bench\",\"choices\":[],\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,"
        "\"total_tokens\":%u}}\n\ndata: [DONE]\n\n";
    return (size_t)snprintf(to, TAIL_CAPACITY, format, PROMPT_TOKENS, events, PROMPT_TOKENS + events);
}

/* Check the part of an event that names it, and report its arrival. */
static bool check_mark(struct checker *checker, const char *mark)
{
    uint64_t stamp, job, number;
    bool valid = read_digits(mark, STAMP_DIGITS, &stamp) && mark[STAMP_DIGITS] == ' ' &&
                 read_digits(mark + STAMP_DIGITS + 1, JOB_DIGITS, &job) &&
                 mark[STAMP_DIGITS + 1 + JOB_DIGITS] == ' ' &&
                 read_digits(mark + MARK_BYTES - NUMBER_DIGITS, NUMBER_DIGITS, &number);
    if (!valid || job != checker->job || number != checker->next_event)
        return false;
    event_arrived(checker->job, checker->next_event, stamp);
    return true;
}

static bool check_piece(struct checker *checker, const char *piece, size_t size)
{
    if (checker->next_event < phase.events) {
        if (memcmp(piece, event_template, HEAD_BYTES) != 0 ||
            memcmp(piece + REST_AT, event_template + REST_AT, EVENT_BYTES - REST_AT) != 0)
            return false;
        return check_mark(checker, piece + HEAD_BYTES);
    }
    char tail[TAIL_CAPACITY];
    write_tail(tail, phase.events);
    return memcmp(piece, tail, size) == 0;
}

static size_t next_piece_size(const struct checker *checker)
{
    char tail[TAIL_CAPACITY];
    return checker->next_event < phase.events ? EVENT_BYTES : write_tail(tail, phase.events);
}

static bool check_exactly(struct checker *checker, const char *data, size_t size)
{
    while (size > 0) {
        if (checker->next_event > phase.events)
            return false; /* bytes after the end */
        size_t want = next_piece_size(checker), take = want - checker->held;
        const char *piece = data;
        if (checker->held > 0 || size < want) {
            take = take < size ? take : size;
            memcpy(checker->partial + checker->held, data, take);
            checker->held += take;
            piece = checker->partial;
            if (checker->held < want)
                return true;
        }
        data += take;
        size -= take;
        checker->held = 0;
        if (!check_piece(checker, piece, want))
            return false;
        checker->next_event++;
    }
    return true;
}

/* Only what follows each `@`: the relay may have encoded the events anew. */
static bool check_loosely(struct checker *checker, const char *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (checker->held == 0 && data[i] != '@')
            continue;
        checker->partial[checker->held++] = data[i];
        if (checker->held <= MARK_BYTES)
            continue;
        checker->held = 0;
        if (!check_mark(checker, checker->partial + 1))
            return false;
        checker->next_event++;
    }
    return true;
}

bool check_response(struct checker *checker, const char *data, size_t size)
{
    return loose ? check_loosely(checker, data, size) : check_exactly(checker, data, size);
}

bool check_complete(const struct checker *checker)
{
    uint32_t pieces = phase.events + (loose ? 0 : 1);
    return checker->next_event == pieces && checker->held == 0;
}
