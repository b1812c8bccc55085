/* Version 1 of docs/protocol.md. The coordinator admits every key without a check of the signature, and
   acknowledges as the reference coordinator does: after a quarter of the window, and every second. A
   violation of the protocol ends the program. */
#define _GNU_SOURCE
#include "load.h"

#include <stdlib.h>
#include <string.h>

enum {
    CHALLENGE = 1, WELCOME = 2, JOB_HEADER = 4, ACK = 6, REQUEST_CHUNK = 8, ROUTING_STATUS = 10,
    HELLO = 33, CAPABILITIES, HEARTBEAT, JOB_STARTED, CHUNK, JOB_RESULT, JOB_ERROR, DRAINING,
};
enum {
    WINDOW_BYTES = 1 << 20,
    MAX_MESSAGE_BYTES = 4 << 20,
    BATCH_BYTES = 128 * 1024,
    PIECE_BYTES = 64 * 1024,
    MAX_FRAMES = 4096, /* of one message; the protocol allows 16384 */
    HEARTBEAT_MS = 10000,
    RESUME_MS = 60000,
    DEADLINE_MS = 3600 * 1000,
    ACKNOWLEDGE_NS = 1000000000,
    ID_BYTES = 16,
};

/* What the protocol needs to know of the job of a slot. */
struct job_state {
    bool started;
    uint64_t received, acked;
    size_t request_sent;
    uint32_t next; /* in the queue of unsent requests */
};

static bool welcomed;
static struct buffer control, pieces;
static uint32_t control_frames, piece_frames;
static struct job_state *jobs;
static uint32_t first_unsent, last_unsent;
static const uint32_t NOTHING = UINT32_MAX;

static void send_message(const struct buffer *frames, uint32_t count)
{
    struct buffer *out = link_out();
    ws_write_head(out, WS_BINARY, buffer_size(frames) + (count < 16 ? 1 : 3));
    put_array(out, count);
    buffer_append(out, buffer_at(frames), buffer_size(frames));
}

static void send_control(void)
{
    if (control_frames == 0)
        return;
    send_message(&control, control_frames);
    buffer_consume(&control, buffer_size(&control));
    control_frames = 0;
}

/* Begin a control frame: the type and `fields` fields, which the caller appends. */
static struct buffer *begin_frame(uint32_t type, uint32_t fields)
{
    if (control_frames == MAX_FRAMES)
        send_control();
    control_frames++;
    put_array(&control, fields + 1);
    put_uint(&control, type);
    return &control;
}

static void put_job_id(struct buffer *out, uint32_t slot)
{
    uint32_t id[ID_BYTES / 4] = {0x6a6f6273, phase.number, slot, slots[slot].checker.job};
    put_bin(out, id, ID_BYTES);
}

/* Return the slot that runs the job; NOTHING if none does. */
static uint32_t read_job_id(struct reader *reader)
{
    size_t size;
    uint32_t id[ID_BYTES / 4];
    const char *data = read_bytes(reader, &size);
    if (reader->bad || size != ID_BYTES)
        fatal("the agent sent a malformed job id");
    memcpy(id, data, ID_BYTES);
    if (id[1] != phase.number || id[2] >= phase.streams || slots[id[2]].checker.job != id[3] ||
        !slots[id[2]].running)
        return NOTHING;
    return id[2];
}

/* Let the rest of the request wait behind those of other jobs. */
static void queue_request(uint32_t slot)
{
    if (first_unsent == NOTHING)
        first_unsent = slot;
    else
        jobs[last_unsent].next = slot;
    last_unsent = slot;
}

static void start_job(uint32_t slot)
{
    jobs[slot] = (struct job_state){.next = NOTHING};
    struct buffer *out = begin_frame(JOB_HEADER, receipts ? 9 : 5);
    put_job_id(out, slot);
    put_text(out, "bench");
    put_text(out, "openai");
    put_uint(out, request_size());
    put_uint(out, DEADLINE_MS);
    if (receipts) {
        put_text(out, ""); /* operation */
        put_text(out, ""); /* traceparent */
        put_true(out);     /* add_usage */
        put_true(out);     /* sign_receipt */
    }
    queue_request(slot);
}

/* Append the next piece of the request whose turn it is. */
static void put_piece(void)
{
    uint32_t slot = first_unsent;
    struct job_state *job = &jobs[slot];
    size_t size = request_size(), piece = size - job->request_sent;
    piece = piece < PIECE_BYTES ? piece : PIECE_BYTES;
    put_array(&pieces, 4);
    put_uint(&pieces, REQUEST_CHUNK);
    put_job_id(&pieces, slot);
    put_uint(&pieces, job->request_sent);
    put_bin_head(&pieces, piece);
    buffer_append(&pieces, request_text(slots[slot].checker.job) + job->request_sent, piece);
    job->request_sent += piece;
    piece_frames++;
    first_unsent = job->next;
    job->next = NOTHING;
    if (job->request_sent < size)
        queue_request(slot);
}

/* Append messages with pieces of requests, about BATCH_BYTES. */
static void send_pieces(void)
{
    while (first_unsent != NOTHING && buffer_size(link_out()) < BATCH_BYTES) {
        while (first_unsent != NOTHING && buffer_size(&pieces) < BATCH_BYTES / 2)
            put_piece();
        send_message(&pieces, piece_frames);
        buffer_consume(&pieces, buffer_size(&pieces));
        piece_frames = 0;
    }
}

static void put_ack(uint32_t slot, uint64_t offset, bool final)
{
    struct buffer *out = begin_frame(ACK, final ? 3 : 2);
    put_job_id(out, slot);
    put_uint(out, offset);
    if (final)
        put_true(out);
}

/* Acknowledge what has arrived of every response, once per second. */
static void acknowledge_all(void)
{
    static uint64_t last_ns;
    if (now_ns() - last_ns < ACKNOWLEDGE_NS)
        return;
    last_ns = now_ns();
    for (uint32_t slot = 0; slot < phase.streams; slot++) {
        if (!slots[slot].running || jobs[slot].acked == jobs[slot].received)
            continue;
        jobs[slot].acked = jobs[slot].received;
        put_ack(slot, jobs[slot].acked, false);
    }
}

static void flush(void)
{
    acknowledge_all();
    send_control();
    do {
        send_pieces();
        link_send();
    } while (first_unsent != NOTHING && buffer_size(link_out()) == 0);
}

static uint32_t on_job_started(struct reader *reader)
{
    uint32_t slot = read_job_id(reader);
    if (read_uint(reader) != 200)
        fatal("the agent sent JobStarted with another status than 200");
    if (slot != NOTHING && jobs[slot].started)
        fatal("the agent sent JobStarted twice");
    if (slot != NOTHING)
        jobs[slot].started = true;
    return 2;
}

static uint32_t on_chunk(struct reader *reader, uint64_t at_ns)
{
    uint32_t slot = read_job_id(reader);
    uint64_t offset = read_uint(reader);
    size_t size;
    const char *data = read_bytes(reader, &size);
    if (slot == NOTHING || reader->bad)
        return 3;
    struct job_state *job = &jobs[slot];
    if (!job->started || offset != job->received || size == 0)
        fatal("the agent sent a chunk that is empty, too early, or at a wrong offset");
    job->received += size;
    if (job->received - job->acked > WINDOW_BYTES)
        fatal("the agent sent more than its window");
    slot_received(&slots[slot], data, size, at_ns);
    if (job->received - job->acked >= WINDOW_BYTES / 4) {
        job->acked = job->received;
        put_ack(slot, job->acked, false);
    }
    return 3;
}

/* Check the counts of tokens, if the relay reports them. */
static void check_usage(struct reader *reader)
{
    uint32_t fields = read_array(reader);
    uint64_t input = 0, output = 0;
    bool known = fields >= 2 && !read_null(reader);
    if (known) {
        input = read_uint(reader);
        output = read_uint(reader);
        if (input != PROMPT_TOKENS || output != phase.events)
            fatal("the agent reported wrong counts of tokens");
        totals.usages++;
    }
    read_skip(reader, fields - (known ? 2 : fields >= 2 ? 1 : 0));
}

static uint32_t on_end(struct reader *reader, uint64_t type)
{
    char error[256] = "";
    uint32_t slot = read_job_id(reader), fields = 3;
    uint64_t total = read_uint(reader);
    if (type == JOB_RESULT) {
        check_usage(reader);
    } else {
        size_t code_size, text_size;
        const char *code = read_bytes(reader, &code_size), *text = read_bytes(reader, &text_size);
        snprintf(error, sizeof error, "%.*s: %.*s", (int)code_size, code, (int)text_size, text);
        fields = 4;
    }
    if (slot == NOTHING || reader->bad)
        fatal("the agent ended a job that does not run");
    if (total != jobs[slot].received)
        fatal("the agent ended a job with a wrong number of bytes");
    put_ack(slot, total, true);
    slot_ended(&slots[slot], type == JOB_RESULT ? NULL : error);
    return fields;
}

/* The features of this connection: receipts, which are not checked, or none. */
static void put_features(struct buffer *out)
{
    put_array(out, receipts ? 1 : 0);
    if (receipts)
        put_text(out, "receipts");
}

static uint32_t on_hello(void)
{
    struct buffer *out = begin_frame(WELCOME, 8);
    put_text(out, "bench");
    put_bin(out, "one session only", ID_BYTES);
    put_uint(out, HEARTBEAT_MS);
    put_uint(out, RESUME_MS);
    put_uint(out, WINDOW_BYTES);
    put_uint(out, MAX_MESSAGE_BYTES);
    put_array(out, 0); /* resumed */
    put_features(out);
    welcomed = true;
    return 0;
}

/* Read one `ModelOffer`; return its `max_concurrent` if it is the model of the benchmark. */
static uint64_t read_offer(struct reader *reader)
{
    uint32_t fields = read_array(reader);
    size_t size;
    const char *name = read_bytes(reader, &size);
    bool ours = size == 5 && memcmp(name, "bench", 5) == 0;
    read_skip(reader, 5); /* formats, operations, context_window, native, backend_kind */
    uint64_t max_concurrent = read_uint(reader);
    read_skip(reader, fields - 7);
    return ours ? max_concurrent : 0;
}

static uint32_t on_capabilities(struct reader *reader)
{
    uint64_t revision = read_uint(reader);
    uint32_t models = read_array(reader);
    offered_jobs = 0;
    for (uint32_t i = 0; i < models && !reader->bad; i++)
        offered_jobs += read_offer(reader);
    struct buffer *out = begin_frame(ROUTING_STATUS, 2);
    put_uint(out, revision);
    put_array(out, 0);
    return 2;
}

/* Process the fields of one frame; return how many of them were read. */
static uint32_t on_frame(struct reader *reader, uint64_t type, uint64_t at_ns)
{
    if (welcomed == (type == HELLO))
        fatal("the agent sent frame %d in the wrong state", (int)type);
    switch (type) {
    case HELLO:
        return on_hello();
    case CAPABILITIES:
        return on_capabilities(reader);
    case JOB_STARTED:
        return on_job_started(reader);
    case CHUNK:
        return on_chunk(reader, at_ns);
    case JOB_RESULT:
    case JOB_ERROR:
        return on_end(reader, type);
    default:
        return 0; /* `Heartbeat`, `Draining`, and what later versions add */
    }
}

static void on_message(const char *data, size_t size, uint64_t at_ns)
{
    struct reader reader = {(const uint8_t *)data, (const uint8_t *)data + size, false};
    totals.messages++;
    for (uint32_t left = read_array(&reader); left > 0 && !reader.bad; left--) {
        uint32_t fields = read_array(&reader) - 1;
        uint64_t type = read_uint(&reader);
        if (!reader.bad)
            read_skip(&reader, fields - on_frame(&reader, type, at_ns));
    }
    if (reader.bad || reader.at != reader.end)
        fatal("the agent sent a malformed message");
}

static void open_link(void)
{
    first_unsent = last_unsent = NOTHING;
    jobs = allocate(max_streams, sizeof *jobs);
    struct buffer *out = begin_frame(CHALLENGE, 3);
    put_bin(out, "0123456789abcdef0123456789abcdef", 32); /* the signature is not checked */
    put_text(out, "bench");
    put_features(out);
}

const struct dialect version1 = {
    "provider-agent.v1", open_link, on_message, start_job, flush,
};
