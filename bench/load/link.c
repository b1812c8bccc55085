/* The WebSocket that the agent dials. The upgrade request selects the dialect. */
#define _GNU_SOURCE
#include "load.h"

#include <string.h>

static struct conn listener, link_to_agent = {.fd = -1};
static const struct dialect *dialect; /* NULL before the upgrade */
static struct buffer fragments;

uint64_t offered_jobs;

struct buffer *link_out(void)
{
    return &link_to_agent.out;
}

void link_send(void)
{
    conn_send(&link_to_agent); /* a failure is reported to `on_link` too */
}

static void on_ws_frame(const struct ws_frame *frame, uint64_t at_ns)
{
    if (frame->opcode == WS_PING) {
        ws_write_head(link_out(), WS_PONG, frame->size);
        buffer_append(link_out(), frame->payload, frame->size);
    } else if (frame->opcode == WS_CLOSE) {
        fatal("the agent closed its link");
    } else if (frame->opcode <= WS_BINARY && frame->final && buffer_size(&fragments) == 0) {
        dialect->on_message(frame->payload, frame->size, at_ns);
    } else if (frame->opcode <= WS_BINARY) {
        buffer_append(&fragments, frame->payload, frame->size);
        if (!frame->final)
            return;
        dialect->on_message(buffer_at(&fragments), buffer_size(&fragments), at_ns);
        buffer_consume(&fragments, buffer_size(&fragments));
    }
}

static void upgrade(struct buffer *in)
{
    size_t head_size = http_head(in);
    if (head_size == 0)
        return;
    bool is_version1 = strstr(buffer_at(in), version1.subprotocol) != NULL;
    dialect = is_version1 ? &version1 : &marketplace;
    if (!ws_accept(buffer_at(in), dialect->subprotocol, link_out()))
        fatal("the agent sent an upgrade request that is not valid");
    buffer_consume(in, head_size);
    dialect->open();
}

static void on_link(struct conn *conn, uint32_t events)
{
    (void)events;
    if (!conn_receive(conn))
        fatal("the agent closed its link");
    uint64_t at_ns = now_ns();
    struct ws_frame frame;
    if (dialect == NULL)
        upgrade(&conn->in);
    while (dialect != NULL && ws_parse(&conn->in, &frame)) {
        on_ws_frame(&frame, at_ns);
        buffer_consume(&conn->in, frame.total);
    }
    coordinator_flush();
}

static void on_listener(struct conn *conn, uint32_t events)
{
    (void)events;
    int fd = accept_from(conn->fd);
    if (fd < 0)
        return;
    if (link_to_agent.fd >= 0)
        fatal("a second agent connected, or the agent reconnected");
    conn_add(&link_to_agent, fd, on_link);
    tls_start(&link_to_agent, false);
}

uint16_t coordinator_listen(void)
{
    conn_add(&listener, listen_on_loopback(), on_listener);
    return port_of(listener.fd);
}

bool coordinator_ready(void)
{
    return offered_jobs >= max_streams;
}

void coordinator_start_job(uint32_t slot)
{
    dialect->start_job(slot);
}

void coordinator_flush(void)
{
    if (dialect != NULL)
        dialect->flush();
}
