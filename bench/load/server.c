/* The inference server: a model list, and streams of the OpenAI chat API in HTTP chunks of one event. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define RESPONSE_HEAD                                                              \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n" \
    "Transfer-Encoding: chunked\r\n\r\n"
#define MODELS                                                                        \
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 58\r\n\r\n" \
    "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\"}]}"
#define REFUSAL \
    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

enum {
    WRITE_BYTES = 64 * 1024, /* of one write at an unlimited rate */
    MAX_BACKENDS = 64,
};

/* One connection, with the response that it carries. */
struct source {
    struct conn conn;
    bool streaming;
    uint32_t job, next_event;
    uint64_t due_ns; /* PACED: when the next event is to be written */
    struct source *before, *after; /* in the order of `due_ns` */
};

static struct conn timer, listeners[MAX_BACKENDS];
static struct source *first_due, *last_due;
static uint64_t armed_ns;
static struct source **source_of_slot; /* for PING_PONG */

static void unschedule(struct source *source)
{
    *(source->before ? &source->before->after : &first_due) = source->after;
    *(source->after ? &source->after->before : &last_due) = source->before;
    source->before = source->after = NULL;
}

/* Insert from the end: all streams have the same interval, so that only a new one is inserted
   elsewhere. */
static void schedule(struct source *source)
{
    struct source *at = last_due;
    while (at != NULL && at->due_ns > source->due_ns)
        at = at->before;
    source->before = at;
    source->after = at ? at->after : first_due;
    *(source->before ? &source->before->after : &first_due) = source;
    *(source->after ? &source->after->before : &last_due) = source;
}

static void arm_timer(void)
{
    if (first_due == NULL || first_due->due_ns == armed_ns)
        return;
    armed_ns = first_due->due_ns;
    struct itimerspec at = {
        .it_value = {(time_t)(armed_ns / 1000000000u), (long)(armed_ns % 1000000000u)},
    };
    timerfd_settime(timer.fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void append_chunk(struct buffer *out, const char *data, size_t size)
{
    char head[16];
    buffer_append(out, head, (size_t)snprintf(head, sizeof head, "%zx\r\n", size));
    buffer_append(out, data, size);
    buffer_append(out, "\r\n", 2);
}

static void append_event(struct source *source)
{
    static const char head[4] = "fa\r\n"; /* EVENT_BYTES */
    char *to = buffer_extend(&source->conn.out, sizeof head + EVENT_BYTES + 2);
    memcpy(to, head, sizeof head);
    write_event(to + sizeof head, source->job, source->next_event++, now_ns());
    memcpy(to + sizeof head + EVENT_BYTES, "\r\n", 2);
}

/* Append the end of the response after its last event. */
static void finish_if_last(struct source *source)
{
    if (source->next_event < phase.events)
        return;
    char tail[TAIL_CAPACITY];
    append_chunk(&source->conn.out, tail, write_tail(tail, phase.events));
    buffer_append(&source->conn.out, "0\r\n\r\n", 5);
    source->streaming = false;
    source->conn.always_writable_events = false;
}

static void append_flat_out(struct source *source)
{
    while (source->next_event < phase.events && buffer_size(&source->conn.out) < WRITE_BYTES)
        append_event(source);
    finish_if_last(source);
}

static void start_response(struct source *source, uint32_t job)
{
    source->job = job;
    source->next_event = 0;
    source->streaming = true;
    source_of_slot[job % phase.streams] = source;
    buffer_append(&source->conn.out, RESPONSE_HEAD, sizeof RESPONSE_HEAD - 1);
    if (phase.pacing == FLAT_OUT) {
        source->conn.always_writable_events = true;
        append_flat_out(source);
        return;
    }
    append_event(source);
    finish_if_last(source);
    if (phase.pacing != PACED || !source->streaming)
        return;
    double interval_ns = 1e9 / phase.rate;
    source->due_ns = now_ns() + (uint64_t)(interval_ns * (0.5 + drand48()));
    schedule(source);
}

static void on_timer(struct conn *conn, uint32_t events)
{
    (void)events;
    uint64_t expirations, now = now_ns();
    if (read(conn->fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
        fatal("timerfd: %s", strerror(errno));
    while (first_due != NULL && first_due->due_ns <= now) {
        struct source *source = first_due;
        unschedule(source);
        append_event(source);
        finish_if_last(source);
        conn_send(&source->conn); /* a failure is reported to `on_source` too */
        if (!source->streaming)
            continue;
        source->due_ns += (uint64_t)(1e9 / phase.rate);
        schedule(source);
    }
    arm_timer();
}

void server_continue(uint32_t slot)
{
    struct source *source = source_of_slot[slot];
    if (phase.pacing != PING_PONG || source == NULL || !source->streaming)
        return;
    append_event(source);
    finish_if_last(source);
    conn_send(&source->conn);
}

static void answer(struct source *source, const char *head, const char *body, size_t size)
{
    struct buffer *out = &source->conn.out;
    uint32_t job;
    if (strncmp(head, "GET ", 4) == 0)
        buffer_append(out, MODELS, sizeof MODELS - 1);
    else if (!is_request(body, size))
        buffer_append(out, REFUSAL, sizeof REFUSAL - 1); /* a probe of the relay */
    else if (!read_request(body, size, &job))
        fatal("the relay altered a request");
    else
        start_response(source, job);
}

/* Answer the request at the start of `in`; return false while it is incomplete. */
static bool take_request(struct source *source)
{
    struct buffer *in = &source->conn.in;
    size_t head_size = source->streaming ? 0 : http_head(in);
    if (head_size == 0)
        return false;
    char *head = buffer_at(in);
    const char *field = strcasestr(head, "\r\ncontent-length:");
    size_t length = field ? strtoul(field + sizeof "\r\ncontent-length:" - 1, NULL, 10) : 0;
    if (buffer_size(in) < head_size + length) {
        head[head_size - 2] = '\r'; /* to find it again */
        return false;
    }
    if (strcasestr(head, "\r\ntransfer-encoding:") != NULL)
        fatal("the relay sent a chunked request");
    answer(source, head, head + head_size, length);
    buffer_consume(in, head_size + length);
    return true;
}

static void close_source(struct source *source)
{
    if (source->before != NULL || source->after != NULL || first_due == source)
        unschedule(source);
    for (uint32_t slot = 0; slot < max_streams; slot++)
        if (source_of_slot[slot] == source)
            source_of_slot[slot] = NULL;
    conn_close(&source->conn);
    free(source);
}

static void on_source(struct conn *conn, uint32_t events)
{
    struct source *source = (struct source *)conn;
    bool alive = (events & (EPOLLERR | EPOLLHUP)) == 0;
    if (alive && events & EPOLLIN) {
        alive = conn_receive(conn);
        while (alive && take_request(source))
            continue;
    }
    if (alive && source->streaming && phase.pacing == FLAT_OUT)
        append_flat_out(source);
    if (!alive || !conn_send(conn))
        close_source(source);
    arm_timer();
}

static void on_listener(struct conn *conn, uint32_t events)
{
    (void)events;
    int fd;
    while ((fd = accept_from(conn->fd)) >= 0) {
        struct source *source = allocate(1, sizeof *source);
        conn_add(&source->conn, fd, on_source);
        tls_start(&source->conn, false);
    }
}

uint16_t server_listen(void)
{
    static uint32_t count;
    if (count == MAX_BACKENDS)
        fatal("too many backends");
    if (count == 0) {
        source_of_slot = allocate(max_streams, sizeof *source_of_slot);
        conn_add(&timer, timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), on_timer);
    }
    conn_add(&listeners[count], listen_on_loopback(), on_listener);
    return port_of(listeners[count++].fd);
}
