/* HTTP clients of a relay that speaks HTTP on both sides: one connection per stream, kept alive. */
#define _GNU_SOURCE
#include "load.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum part { HEAD, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, BETWEEN_RESPONSES };

struct client {
    struct conn conn;
    uint32_t slot;
    enum part part;
    size_t chunk_left;
    bool closes; /* the relay closes the connection after the response */
    char error[128];
};

static struct client **clients; /* by slot */

static void discard(struct client *client)
{
    clients[client->slot] = NULL;
    conn_close(&client->conn);
    free(client);
}

static void fail(struct client *client)
{
    struct slot *slot = &slots[client->slot];
    char error[sizeof client->error];
    memcpy(error, client->error, sizeof error);
    discard(client);
    if (slot->running)
        slot_ended(slot, error[0] ? error : "the relay closed a connection");
}

/* Return the end of the line at the start of `in`, NULL while it is incomplete. */
static char *line_end(struct buffer *in)
{
    return memmem(buffer_at(in), buffer_size(in), "\r\n", 2);
}

static bool parse_head(struct client *client)
{
    struct buffer *in = &client->conn.in;
    size_t head_size = http_head(in);
    if (head_size == 0)
        return false;
    const char *head = buffer_at(in);
    bool ok = strncmp(head, "HTTP/1.1 200 ", 13) == 0 &&
              strcasestr(head, "\r\ntransfer-encoding: chunked") != NULL;
    client->closes = strcasestr(head, "\r\nconnection: close") != NULL;
    if (!ok) {
        snprintf(client->error, sizeof client->error, "the relay answered: %.*s",
                 (int)(strcspn(head, "\r") % 80), head);
        return false;
    }
    buffer_consume(in, head_size);
    client->part = CHUNK_SIZE;
    return true;
}

static bool parse_chunk_size(struct client *client)
{
    struct buffer *in = &client->conn.in;
    char *end = line_end(in), *digits_end;
    if (end == NULL)
        return false;
    client->chunk_left = strtoul(buffer_at(in), &digits_end, 16);
    if (digits_end == buffer_at(in))
        fatal("the relay sent a malformed chunk");
    buffer_consume(in, (size_t)(end + 2 - buffer_at(in)));
    client->part = client->chunk_left > 0 ? CHUNK_DATA : TRAILER;
    return true;
}

static bool parse_data(struct client *client, uint64_t at_ns)
{
    struct buffer *in = &client->conn.in;
    size_t size = buffer_size(in) < client->chunk_left ? buffer_size(in) : client->chunk_left;
    if (size == 0)
        return false;
    slot_received(&slots[client->slot], buffer_at(in), size, at_ns);
    buffer_consume(in, size);
    client->chunk_left -= size;
    if (client->chunk_left == 0)
        client->part = CHUNK_END;
    return true;
}

/* The line end after a chunk, or one line of the trailer. */
static bool parse_line(struct client *client)
{
    struct buffer *in = &client->conn.in;
    char *end = line_end(in);
    if (end == NULL)
        return false;
    bool empty = end == buffer_at(in);
    buffer_consume(in, (size_t)(end + 2 - buffer_at(in)));
    if (client->part == CHUNK_END)
        client->part = CHUNK_SIZE;
    else if (empty)
        client->part = BETWEEN_RESPONSES;
    return true;
}

/* Parse one step; return false if more bytes are needed or the client is gone. */
static bool parse_step(struct client *client, uint64_t at_ns)
{
    switch (client->part) {
    case HEAD:
        return parse_head(client);
    case CHUNK_SIZE:
        return parse_chunk_size(client);
    case CHUNK_DATA:
        return parse_data(client, at_ns);
    case CHUNK_END:
    case TRAILER:
        return parse_line(client);
    case BETWEEN_RESPONSES:
        break;
    }
    return false;
}

static void end_response(struct client *client)
{
    struct slot *slot = &slots[client->slot];
    if (client->closes)
        discard(client);
    slot_ended(slot, NULL);
}

static void on_client(struct conn *conn, uint32_t events)
{
    struct client *client = (struct client *)conn;
    bool alive = (events & EPOLLOUT) == 0 || conn_send(conn);
    if (alive && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        alive = conn_receive(conn);
        uint64_t at_ns = now_ns();
        while (parse_step(client, at_ns))
            continue;
    }
    if (client->part == BETWEEN_RESPONSES && slots[client->slot].running)
        end_response(client);
    else if (!alive || client->error[0])
        fail(client);
}

static struct client *new_client(uint32_t slot)
{
    struct client *client = allocate(1, sizeof *client);
    client->slot = slot;
    conn_add(&client->conn, connect_to_loopback(target_port), on_client);
    tls_start(&client->conn, true);
    return client;
}

void client_start_job(uint32_t slot)
{
    if (clients == NULL)
        clients = allocate(max_streams, sizeof *clients);
    if (clients[slot] == NULL)
        clients[slot] = new_client(slot);
    struct client *client = clients[slot];
    char head[160];
    int size = snprintf(head, sizeof head,
                        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                        request_size());
    buffer_append(&client->conn.out, head, (size_t)size);
    buffer_append(&client->conn.out, request_text(slots[slot].checker.job), request_size());
    client->part = HEAD;
    conn_send(&client->conn); /* a failure is reported to `on_client` too */
}
